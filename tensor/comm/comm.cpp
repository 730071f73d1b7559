#include "tensor/comm/comm.h"

namespace uipe::tensor {
namespace {

/// `part` must be a share of `whole`, which it is, or lies outside of.
void check_share(const char* name, const Tensor& whole, const Tensor& part, int rank, int size) {
    require(part.dtype() == whole.dtype() && part.device() == whole.device() && whole.numel() == size * part.numel(),
            name, ": ", name_of(part.dtype()), to_string(part.shape()), " on ", name_of(part.device()),
            " is no share of ", name_of(whole.dtype()), to_string(whole.shape()), " on ", name_of(whole.device()),
            " among ", size, size == 1 ? " rank" : " ranks");
    const auto begin = reinterpret_cast<std::uintptr_t>(whole.raw());
    const auto at = reinterpret_cast<std::uintptr_t>(part.raw());
    const bool own = at == begin + static_cast<std::size_t>(rank) * part.nbytes();
    require(own || at + part.nbytes() <= begin || at >= begin + whole.nbytes(), name,
            ": a share within the whole must be the rows of its own rank");
}

}  // namespace

Traffic::Count Traffic::total() const {
    Count sum;
    for (const Count* count : {&all_reduce, &reduce_scatter, &all_gather, &broadcast}) {
        sum.elements += count->elements;
        sum.bytes += count->bytes;
    }
    return sum;
}

Ticket Comm::all_reduce(const Tensor& x) { return queue({Kind::all_reduce, x, x}); }

Ticket Comm::reduce_scatter(const Tensor& y, const Tensor& x) {
    check_share("reduce_scatter", x, y, rank(), size());
    return queue({Kind::reduce_scatter, y, x});
}

Ticket Comm::all_gather(const Tensor& y, const Tensor& x) {
    check_share("all_gather", y, x, rank(), size());
    return queue({Kind::all_gather, y, x});
}

Ticket Comm::broadcast(const Tensor& x, int root) {
    require(root >= 0 && root < size(), "broadcast from rank ", root, " of ", size());
    return queue({Kind::broadcast, x, x, root});
}

Ticket Comm::queue(const Call& call) {
    require(call.x.dtype() != DType::i32, "ranks exchange tensors of floats; host numbers go by gather()");
    start(last_ + 1, call);
    if (size() > 1) {
        const Tensor& whole = call.y.numel() > call.x.numel() ? call.y : call.x;
        const auto elements = static_cast<std::uint64_t>(whole.numel()) * (call.kind == Kind::all_reduce ? 2 : 1);
        Traffic::Count* counts[] = {&traffic_.all_reduce, &traffic_.reduce_scatter, &traffic_.all_gather,
                                    &traffic_.broadcast};
        Traffic::Count& count = *counts[static_cast<int>(call.kind)];
        count.elements += elements;
        count.bytes += elements * size_of(whole.dtype());
    }
    return ++last_;
}

}  // namespace uipe::tensor
