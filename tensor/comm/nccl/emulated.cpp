// nccl.h for the emulator: "device" memory is the host's, and MPI moves it. Each share of a sum begins with another
// rank, as in a ring, so that who needs the order of ranks does not get it by chance.
#ifdef UIPE_EMULATED

#include <cstring>
#include <optional>

#include "tensor/comm/mpi/collectives.h"
#include "tensor/comm/nccl/nccl.h"

namespace uipe::tensor::nccl {

struct Opaque {
    int ranks = 1;
    int rank = 0;
    std::optional<mpi::Link> link;  // where there are several
    mpi::Staging staging{std::size_t{1} << 20};
};

namespace {

using cuda::Stream;

std::optional<mpi::Messages> group;  // of the sends and receives since group_start()
bool grouping = false;

DType dtype_of(Type type) {
    if (type == Type::f64) return DType::f64;
    return type == Type::f32 ? DType::f32 : DType::bf16;
}
std::size_t bytes_of(std::size_t n, Type type) { return n * size_of(dtype_of(type)); }

Result get_unique_id(UniqueId* id) {
    *id = {};
    return Result::success;
}

Result comm_init_rank(Handle* comm, int ranks, UniqueId /*id*/, int rank) {
    *comm = new Opaque{ranks, rank, {}};
    if (ranks > 1) (*comm)->link.emplace(std::size_t{1} << 20);
    return Result::success;
}

Result comm_destroy(Handle comm) {
    delete comm;
    return Result::success;
}

const char* error_string(Result /*result*/) { return "no error is emulated"; }

Result reduce_scatter(const void* x, void* y, std::size_t n, Type type, Reduction /*sum*/, Handle c, Stream /*s*/) {
    const auto share = static_cast<std::int64_t>(n);
    if (c->ranks == 1)
        std::memmove(y, x, bytes_of(n, type));
    else
        mpi::reduce_scatter(*c->link, c->staging, dtype_of(type), y, x, {share * c->ranks, share},
                            (c->rank + 1) % c->ranks);
    return Result::success;
}

Result all_reduce(const void* x, void* y, std::size_t n, Type type, Reduction /*sum*/, Handle c, Stream /*s*/) {
    if (y != x) std::memcpy(y, x, bytes_of(n, type));
    if (c->ranks == 1) return Result::success;
    const auto all = static_cast<std::int64_t>(n);
    const mpi::Shares shares{all, (all + c->ranks - 1) / c->ranks};
    void* own = static_cast<std::byte*>(y) + bytes_of(static_cast<std::size_t>(shares.begin(c->rank)), type);
    mpi::reduce_scatter(*c->link, c->staging, dtype_of(type), own, y, shares, (c->rank + 1) % c->ranks);
    mpi::all_gather(*c->link, dtype_of(type), y, own, shares);
    return Result::success;
}

Result all_gather(const void* x, void* y, std::size_t n, Type type, Handle c, Stream /*s*/) {
    const auto share = static_cast<std::int64_t>(n);
    if (c->ranks == 1)
        std::memmove(y, x, bytes_of(n, type));
    else
        mpi::all_gather(*c->link, dtype_of(type), y, x, {share * c->ranks, share});
    return Result::success;
}

Result broadcast(const void* x, void* y, std::size_t n, Type type, int root, Handle c, Stream /*s*/) {
    if (y != x) std::memcpy(y, x, bytes_of(n, type));
    if (c->ranks > 1) c->link->broadcast(y, bytes_of(n, type), root);
    return Result::success;
}

/// The messages of the group, which is of one comm.
mpi::Messages& messages(Handle c) {
    require(grouping, "a send or receive of NCCL outside a group");
    if (!group) group.emplace(*c->link);
    return *group;
}

Result send(const void* x, std::size_t n, Type type, int to, Handle c, Stream /*s*/) {
    messages(c).send(to, x, bytes_of(n, type));
    return Result::success;
}

Result receive(void* y, std::size_t n, Type type, int from, Handle c, Stream /*s*/) {
    messages(c).receive(from, y, bytes_of(n, type));
    return Result::success;
}

Result group_start() {
    grouping = true;
    return Result::success;
}

Result group_end() {
    grouping = false;
    if (group) group->finish();
    group.reset();
    return Result::success;
}

}  // namespace

const Nccl& nccl() {
    static const Nccl instance{get_unique_id, comm_init_rank, comm_destroy, error_string, all_reduce,  reduce_scatter,
                               all_gather,    broadcast,      send,         receive,      group_start, group_end};
    return instance;
}

}  // namespace uipe::tensor::nccl

#endif
