#include "nn/attention.h"

#include "tensor/ops.h"

namespace uipe::nn {
namespace {

/// y[S,C] = x[T,C] at rows[S].
Tensor gather(const Tensor& x, const Tensor& rows) {
    Tensor y = Tensor::empty({rows.numel(), x.dim(1)}, x.dtype(), x.device());
    tensor::embedding(y, x, rows);
    return y;
}

}  // namespace

Attention::Attention(Tensor q, Tensor k, Tensor v, Tensor o, std::int64_t head_dim, double rope_theta)
    : q_(std::move(q)),
      k_(std::move(k)),
      v_(std::move(v)),
      o_(std::move(o)),
      head_dim_(head_dim),
      rope_theta_(rope_theta) {}

Variable Attention::operator()(const Variable& x, const Packing& packing) const {
    const auto turn = [&](const Variable& heads) {
        return autograd::rope(heads, packing.positions, head_dim_, rope_theta_);
    };
    const DropoutAt& dropout = packing.dropout;
    return o_(heads(turn(q_(x, dropout)), turn(k_(x, dropout)), v_(x, dropout), packing), dropout);
}

/// The heads' outputs [T,H*D], before they are mixed.
Variable Attention::heads(const Variable& q, const Variable& k, const Variable& v, const Packing& packing) const {
    if (!packing.key_rows.defined()) return autograd::attention(q, k, v, packing.cu_seqlens, head_dim_);
    require(!autograd::recording(), "attention to shared rows has no gradient");
    const Tensor& query = q.value();
    const Tensor out = Tensor::empty(query.shape(), query.dtype(), query.device());
    const Tensor lse =
        Tensor::empty({query.dim(0), query.dim(1) / head_dim_}, tensor::accumulator_of(query.dtype()), query.device());
    tensor::attention(out, lse, query, gather(k.value(), packing.key_rows), gather(v.value(), packing.key_rows),
                      packing.cu_seqlens, packing.cu_keys, head_dim_);
    return Variable(out);
}

void Attention::collect(const std::string& prefix, Parameters& out) const {
    q_.collect(prefix + "q_proj.", out);
    k_.collect(prefix + "k_proj.", out);
    v_.collect(prefix + "v_proj.", out);
    o_.collect(prefix + "o_proj.", out);
}

void Attention::each_linear(const EachLinear& f) {
    f("q_proj", q_);
    f("k_proj", k_);
    f("v_proj", v_);
    f("o_proj", o_);
}

void Attention::freeze() {
    each_linear([](const std::string&, Linear& linear) { linear.freeze(); });
}

}  // namespace uipe::nn
