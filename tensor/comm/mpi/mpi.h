// What we ask of MPI: its start and end, and messages between the ranks. The C interface alone; only this folder and
// the emulated NCCL know of it. One thread at a time may be in any of these calls.
#pragma once

#include <mpi.h>

#include <cstddef>
#include <string>
#include <vector>

namespace uipe::tensor::mpi {

/// Starts MPI, once a process. InputError when the launcher that started this process is not this MPI's.
void start();
/// Ends MPI, where it was started: with all ranks when `status` is 0 and none of them has been left in mid-call, else
/// at once and for all of them, with that status; then it does not return.
void finish(int status);
/// Notes that a thread is left in a call that may never return.
void abandon();

/// The ranks, with an order of messages of their own.
class Link {
public:
    /// All ranks make one together. Messages are cut where they exceed `most` bytes: MPI counts them by an int.
    explicit Link(std::size_t most);

    int rank() const { return rank_; }
    int size() const { return size_; }

    /// Waits until every rank is here; sleeps meanwhile, for the processor has other work.
    void meet() const;
    void broadcast(void* data, std::size_t bytes, int root) const;
    std::vector<std::string> gather(const std::string& bytes) const;

private:
    friend class Messages;
    MPI_Comm ranks_ = MPI_COMM_NULL;  // given back by MPI's end: to free it, all ranks would have to be well
    int rank_ = 0;
    int size_ = 1;
    std::size_t most_;
};

/// Messages under way. Between two ranks they arrive in the order in which they were sent, and both cut them alike.
class Messages {
public:
    explicit Messages(const Link& link) : link_(link) {}

    void send(int to, const void* data, std::size_t bytes);
    void receive(int from, void* data, std::size_t bytes);
    /// Waits until all have been sent and received; until then their memory must not be touched.
    void finish();

private:
    const Link& link_;
    std::vector<MPI_Request> requests_;
};

}  // namespace uipe::tensor::mpi
