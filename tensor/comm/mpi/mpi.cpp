#include "tensor/comm/mpi/mpi.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <thread>

#include "tensor/base/error.h"
#include "tensor/comm/launch.h"

namespace uipe::tensor::mpi {
namespace {

std::atomic<bool> left_in_mid_call{false};

/// Error with MPI's own words.
void check(int code, const char* call) {
    if (code == MPI_SUCCESS) return;
    std::array<char, MPI_MAX_ERROR_STRING> text{};
    int length = 0;
    MPI_Error_string(code, text.data(), &length);
    throw Error(cat(call, ": ", std::string(text.data(), static_cast<std::size_t>(length))));
}

bool running() {
    int started = 0;
    int ended = 0;
    MPI_Initialized(&started);
    MPI_Finalized(&ended);
    return started != 0 && ended == 0;
}

/// Calls body(begin, bytes) for ranges of at most `most` bytes that cover [0, bytes).
template <class Body>
void in_pieces(std::size_t bytes, std::size_t most, const Body& body) {
    for (std::size_t at = 0; at < bytes; at += most) body(at, static_cast<int>(std::min(most, bytes - at)));
}

}  // namespace

void start() {
    if (running()) return;
    int threads = 0;
    check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &threads), "MPI_Init_thread");
    check(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    require(threads >= MPI_THREAD_SERIALIZED, "this MPI was built without threads; Open MPI and MPICH have them");
    int size = 0;
    check(MPI_Comm_size(MPI_COMM_WORLD, &size), "MPI_Comm_size");
    const int expected = launched().ranks;
    std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> version{};
    int length = 0;
    MPI_Get_library_version(version.data(), &length);
    const std::string name(version.data());
    require_input(expected == 0 || size == expected, "the launcher started ", expected,
                  " ranks, of which this program's MPI sees ", size, "; start it with the launcher of ",
                  name.substr(0, name.find_first_of(",\n")));
}

void finish(int status) {
    if (!running()) return;
    if (status == 0 && !left_in_mid_call)
        check(MPI_Finalize(), "MPI_Finalize");
    else
        MPI_Abort(MPI_COMM_WORLD, status == 0 ? 1 : status);
}

void abandon() { left_in_mid_call = true; }

Link::Link(std::size_t most) : most_(most) {
    start();
    check(MPI_Comm_dup(MPI_COMM_WORLD, &ranks_), "MPI_Comm_dup");
    check(MPI_Comm_rank(ranks_, &rank_), "MPI_Comm_rank");
    check(MPI_Comm_size(ranks_, &size_), "MPI_Comm_size");
}

void Link::meet() const {
    MPI_Request request = MPI_REQUEST_NULL;
    check(MPI_Ibarrier(ranks_, &request), "MPI_Ibarrier");
    const auto begin = std::chrono::steady_clock::now();
    for (int here = 0; here == 0;) {
        check(MPI_Test(&request, &here, MPI_STATUS_IGNORE), "MPI_Test");
        if (here == 0 && std::chrono::steady_clock::now() - begin > std::chrono::microseconds(20))
            std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
}

void Link::broadcast(void* data, std::size_t bytes, int root) const {
    in_pieces(bytes, most_, [&](std::size_t at, int n) {
        check(MPI_Bcast(static_cast<std::byte*>(data) + at, n, MPI_BYTE, root, ranks_), "MPI_Bcast");
    });
}

std::vector<std::string> Link::gather(const std::string& bytes) const {
    const auto ranks = static_cast<std::size_t>(size_);
    const unsigned long long own = bytes.size();
    std::vector<unsigned long long> sizes(ranks);
    check(MPI_Allgather(&own, 1, MPI_UNSIGNED_LONG_LONG, sizes.data(), 1, MPI_UNSIGNED_LONG_LONG, ranks_),
          "MPI_Allgather");
    std::vector<std::string> all(ranks);
    for (std::size_t r = 0; r < ranks; ++r) all[r].resize(sizes[r]);
    all[static_cast<std::size_t>(rank_)] = bytes;
    Messages messages(*this);
    for (int r = 0; r < size_; ++r) {
        if (r == rank_) continue;
        std::string& text = all[static_cast<std::size_t>(r)];
        messages.receive(r, text.data(), text.size());
        messages.send(r, bytes.data(), bytes.size());
    }
    messages.finish();
    return all;
}

void Messages::send(int to, const void* data, std::size_t bytes) {
    in_pieces(bytes, link_.most_, [&](std::size_t at, int n) {
        check(MPI_Isend(static_cast<const std::byte*>(data) + at, n, MPI_BYTE, to, 0, link_.ranks_,
                        &requests_.emplace_back()),
              "MPI_Isend");
    });
}

void Messages::receive(int from, void* data, std::size_t bytes) {
    in_pieces(bytes, link_.most_, [&](std::size_t at, int n) {
        check(MPI_Irecv(static_cast<std::byte*>(data) + at, n, MPI_BYTE, from, 0, link_.ranks_,
                        &requests_.emplace_back()),
              "MPI_Irecv");
    });
}

void Messages::finish() {
    check(MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(), MPI_STATUSES_IGNORE), "MPI_Waitall");
    requests_.clear();
}

}  // namespace uipe::tensor::mpi
