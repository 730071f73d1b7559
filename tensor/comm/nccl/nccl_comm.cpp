#include "tensor/comm/nccl/nccl_comm.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <exception>

#include "tensor/allocator.h"
#include "tensor/comm/nccl/nccl.h"
#include "tensor/cuda/add_ranks.h"

namespace uipe::tensor {
namespace {

using nccl::nccl;

void check(nccl::Result result, const char* call) {
    require(result == nccl::Result::success, call, ": ", nccl().error_string(result),
            "; NCCL_DEBUG=WARN makes NCCL say more");
}

nccl::Type type_of(DType dtype) {
    if (dtype == DType::f64) return nccl::Type::f64;
    return dtype == DType::f32 ? nccl::Type::f32 : nccl::Type::bf16;
}

void require_own_gpus(Comm& host) {
    std::array<char, 256> machine{};
    ::gethostname(machine.data(), machine.size() - 1);
    const std::vector<std::string> all = host.gather(cat(machine.data(), ", ", cuda::device_address()));
    for (std::size_t i = 0; i < all.size(); ++i)
        for (std::size_t j = 0; j < i; ++j)
            require_input(all[i] != all[j], "ranks ", j, " and ", i, " have one GPU between them (", all[i],
                          "); start no more ranks on a machine than it has GPUs");
}

class NcclComm final : public Comm {
public:
    NcclComm(std::unique_ptr<Comm> host, bool fixed_order, std::size_t staging)
        : host_(std::move(host)), fixed_order_(fixed_order), staging_bytes_(staging) {
        require_own_gpus(*host_);
        nccl::UniqueId id{};
        if (rank() == 0) check(nccl().get_unique_id(&id), "ncclGetUniqueId");
        const std::string root = host_->gather(std::string(id.bytes, sizeof(id.bytes))).front();
        std::memcpy(id.bytes, root.data(), sizeof(id.bytes));
        check(nccl().comm_init_rank(&comm_, size(), id, rank()), "ncclCommInitRank");
        if (fixed_order && size() > 2) take_staging();
    }

    ~NcclComm() override {
        // Other ranks may never come to the calls that are queued when this one fails; the process ends then.
        if (std::uncaught_exceptions() > 0) return;
        try {
            side_.synchronize();
            (void)nccl().comm_destroy(comm_);
        } catch (const Error&) {  // of the device, of which the next call speaks
        }
    }

    int rank() const override { return host_->rank(); }
    int size() const override { return host_->size(); }

    void wait(Ticket ticket) override {
        const auto end = std::find_if(held_.begin(), held_.end(), [&](const Held& h) { return h.ticket > ticket; });
        if (end == held_.begin()) return;
        side_.join(std::prev(end)->mark);
        held_.erase(held_.begin(), end);  // behind the mark: what comes to use this memory comes later
    }

    void barrier() override {
        side_.synchronize();
        host_->barrier();
    }

    std::vector<std::string> gather(const std::string& bytes) override {
        side_.synchronize();
        return host_->gather(bytes);
    }

private:
    /// A call that the computing stream has not been made to wait for, and its tensors.
    struct Held {
        Ticket ticket;
        cuda::SideStream::Mark mark;
        Call call;
    };

    void start(Ticket ticket, const Call& call) override {
        require(call.x.device().kind == Device::Kind::cuda, "ranks joined by NCCL exchange tensors of a GPU, not of ",
                name_of(call.x.device()));
        if (in_order(call) && !staging_.defined()) take_staging();
        held_.push_back({ticket, side_.run([this, call] { run(call); }), call});
    }

    void take_staging() {
        const MemoryScope scope(MemoryClass::workspace);
        staging_ = Tensor::empty({static_cast<std::int64_t>(staging_bytes_ / sizeof(float))}, DType::f32,
                                 {Device::Kind::cuda});
    }

    /// Whether a sum is ours to take: of two numbers there is one sum, in any order. Sums of f64 are NCCL's.
    bool in_order(const Call& call) const {
        return (call.kind == Kind::all_reduce || call.kind == Kind::reduce_scatter) && size() > 2 &&
               ((fixed_order_ && call.x.dtype() == DType::f32) || call.x.dtype() == DType::bf16);
    }

    /// Queues a call on the side stream.
    void run(const Call& call) {
        void* y = call.y.raw();
        const void* x = call.x.raw();
        const auto n_x = static_cast<std::size_t>(call.x.numel());
        const auto n_y = static_cast<std::size_t>(call.y.numel());
        const nccl::Type type = type_of(call.x.dtype());
        const auto sum = nccl::Reduction::sum;
        if (in_order(call)) return add_in_order(call);
        switch (call.kind) {
            case Kind::all_reduce:
                return check(nccl().all_reduce(x, y, n_x, type, sum, comm_, cuda::stream()), "ncclAllReduce");
            case Kind::reduce_scatter:
                return check(nccl().reduce_scatter(x, y, n_y, type, sum, comm_, cuda::stream()), "ncclReduceScatter");
            case Kind::all_gather:
                return check(nccl().all_gather(x, y, n_x, type, comm_, cuda::stream()), "ncclAllGather");
            case Kind::broadcast:
                return check(nccl().broadcast(x, y, n_x, type, call.root, comm_, cuda::stream()), "ncclBroadcast");
        }
    }

    /// Each rank receives its share from all others, in pieces, and adds up; all_reduce then sends the sums round.
    void add_in_order(const Call& call) {
        const std::int64_t n = call.x.numel();
        const std::int64_t share = (n + size() - 1) / size();
        const auto begin = [&](int r) { return std::min(n, r * share); };
        const auto count = [&](int r) { return begin(r + 1) - begin(r); };
        const DType dtype = call.x.dtype();
        const auto at = [&](const Tensor& t, std::int64_t i) {
            return static_cast<std::byte*>(t.raw()) + static_cast<std::size_t>(i) * size_of(dtype);
        };
        const bool all = call.kind == Kind::all_reduce;
        const std::int64_t own_sum = all ? begin(rank()) : 0;  // where in y
        const std::int64_t wide = 16 / static_cast<std::int64_t>(size_of(dtype));
        const std::int64_t fits = static_cast<std::int64_t>(staging_.nbytes() / size_of(dtype)) / (size() - 1);
        const std::int64_t piece = std::max(fits / wide * wide, std::int64_t{1});
        for (std::int64_t done = 0; done < share; done += piece) {
            const auto part = [&](int r) { return std::clamp<std::int64_t>(count(r) - done, 0, piece); };
            exchange(
                dtype,
                [&](int r) {
                    return Part{at(call.x, begin(r) + done), part(r)};
                },
                [&](int r) {
                    return Part{at(staging_, (r < rank() ? r : r - 1) * piece), part(rank())};
                });
            cuda::add_ranks({.y = at(call.y, own_sum + done),
                             .own = at(call.x, begin(rank()) + done),
                             .others = staging_.raw(),
                             .stride = piece,
                             .rank = rank(),
                             .ranks = size(),
                             .n = part(rank()),
                             .dtype = dtype});
        }
        if (all)
            exchange(
                dtype,
                [&](int) {
                    return Part{at(call.y, own_sum), count(rank())};
                },
                [&](int r) {
                    return Part{at(call.y, begin(r)), count(r)};
                });
    }

    struct Part {
        void* data;
        std::int64_t n;
    };
    /// Sends part out(r) to every other rank r and receives part in(r) from it.
    template <class Out, class In>
    void exchange(DType dtype, const Out& out, const In& in) {
        const nccl::Type type = type_of(dtype);
        check(nccl().group_start(), "ncclGroupStart");
        for (int r = 0; r < size(); ++r) {
            if (r == rank()) continue;
            if (const Part p = out(r); p.n > 0)
                check(nccl().send(p.data, static_cast<std::size_t>(p.n), type, r, comm_, cuda::stream()), "ncclSend");
            if (const Part p = in(r); p.n > 0)
                check(nccl().receive(p.data, static_cast<std::size_t>(p.n), type, r, comm_, cuda::stream()),
                      "ncclRecv");
        }
        check(nccl().group_end(), "ncclGroupEnd");
    }

    std::unique_ptr<Comm> host_;
    bool fixed_order_;
    std::size_t staging_bytes_;
    Tensor staging_;
    nccl::Handle comm_ = nullptr;
    cuda::SideStream side_;
    std::deque<Held> held_;
};

}  // namespace

std::unique_ptr<Comm> nccl_comm(std::unique_ptr<Comm> host, bool fixed_order, std::size_t staging) {
    return std::make_unique<NcclComm>(std::move(host), fixed_order, staging);
}

}  // namespace uipe::tensor
