// Ranks working on one model. Every distributed algorithm is written on these calls: sums and gathers that are queued
// and run beside what is computed next, and three that the host waits in.
//
//     mpirun --bind-to none -n 2 build/release/uipe …
//
// starts two (Open MPI binds each rank to one core otherwise; with MPICH, mpiexec -n 2; under Slurm, srun -n 2).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace uipe::tensor {

/// Stands for a queued call; 0 for none, which nobody waits for.
using Ticket = std::uint64_t;

/// What was given to the ranks to move, by the convention of the ZeRO paper (Rajbhandari et al. 2020, section 7): a
/// sum that all get counts its tensor twice, all else counts the whole tensor once. A rank alone moves nothing.
struct Traffic {
    struct Count {
        std::uint64_t elements = 0;
        std::uint64_t bytes = 0;
        bool operator==(const Count&) const = default;
    };
    Count all_reduce, reduce_scatter, all_gather, broadcast;

    Count total() const;
};

/// The tensors of the queued calls are f64, f32 or bf16; of any shape, their elements in order. Sums of
/// bf16 are kept in f32 and rounded once.
///
/// A queued call begins after the work that was queued before it on the tensors' device, and runs beside what is queued
/// after it. The calls of a rank run one after another in the order in which they were made, which must be the same on
/// every rank. Their tensors are kept alive, and must not be touched, until their ticket has been waited for.
class Comm {
public:
    Comm() = default;
    virtual ~Comm() = default;
    Comm(const Comm&) = delete;
    Comm& operator=(const Comm&) = delete;

    virtual int rank() const = 0;
    virtual int size() const = 0;

    /// x = the sum of x over all ranks, on all ranks.
    Ticket all_reduce(const Tensor& x);
    /// y[n] = this rank's share of the sum of x[N*n] over all ranks. y may be x's own n rows, those of this rank.
    Ticket reduce_scatter(const Tensor& y, const Tensor& x);
    /// y[N*n] = every rank's x[n], in order of ranks. x may be y's own n rows.
    Ticket all_gather(const Tensor& y, const Tensor& x);
    /// x = root's x.
    Ticket broadcast(const Tensor& x, int root);

    /// What is computed from here on finds the call done, and every call before it. On the CPU this waits; on a device
    /// its queue does, and the host does not. Throws what went
    /// wrong in a call, on a device perhaps when its queue is next waited for.
    virtual void wait(Ticket ticket) = 0;

    /// Waits until every rank is here, and has done its queued calls.
    virtual void barrier() = 0;
    /// Every rank's bytes, which may differ in number, in order of ranks. Waits, as barrier() does. Not counted.
    virtual std::vector<std::string> gather(const std::string& bytes) = 0;

    /// Counted since the last reset.
    const Traffic& traffic() const { return traffic_; }
    void reset_traffic() { traffic_ = {}; }

protected:
    enum class Kind : std::uint8_t { all_reduce, reduce_scatter, all_gather, broadcast };
    /// A call whose tensors fit. y is what it writes; x what it reads, the same tensor where there is one only.
    struct Call {
        Kind kind;
        Tensor y, x;
        int root = 0;
    };
    /// Queues a call; `ticket` is one more than the last one's.
    virtual void start(Ticket ticket, const Call& call) = 0;

private:
    Ticket queue(const Call& call);

    Ticket last_ = 0;
    Traffic traffic_;
};

/// The ranks of this run, with tensors on `device`: those that a launcher started, by MPI on the CPU and by NCCL on a
/// GPU each, or this process alone. One at a time. On the CPU sums are taken in the order of ranks, so that any number
/// of them gives the same bits on every run; NCCL does so with `fixed_order`, at the cost of some memory.
/// InputError when there are several ranks and no MPI to join them.
std::unique_ptr<Comm> world(Device device = {}, bool fixed_order = false);

/// One process alone: sums are what they are, and gathering copies.
std::unique_ptr<Comm> self_comm();

/// The last call of a program that may have several ranks; gives back `status`. 0: the ranks part when all are here.
/// Else all of them end now, with that status, so that none waits for one that has failed.
int finish_ranks(int status);

}  // namespace uipe::tensor
