#include "nn/attention.h"

#include "tensor/ops.h"

namespace uipe::nn {

Attention::Attention(Tensor q, Tensor k, Tensor v, Tensor o, std::int64_t head_dim, double rope_theta)
    : q_(std::move(q)),
      k_(std::move(k)),
      v_(std::move(v)),
      o_(std::move(o)),
      head_dim_(head_dim),
      rope_theta_(rope_theta) {}

Variable Attention::operator()(const Variable& x, const Packing& packing, const CacheView* cache) const {
    const auto turn = [&](const Variable& heads) {
        return autograd::rope(heads, packing.positions, head_dim_, rope_theta_);
    };
    const Variable q = turn(q_(x));
    const Variable k = turn(k_(x));
    const Variable v = v_(x);
    if (cache != nullptr) {
        tensor::cache_write(cache->keys, k.value(), cache->slots, packing.positions);
        tensor::cache_write(cache->values, v.value(), cache->slots, packing.positions);
    }
    if (cache == nullptr || !cache->lengths.defined())
        return o_(autograd::attention(q, k, v, packing.cu_seqlens, head_dim_));
    const Tensor out = Tensor::empty(q.value().shape(), q.value().dtype(), q.value().device());
    tensor::attention_decode(out, q.value(), cache->keys, cache->values, cache->slots, cache->lengths, head_dim_);
    return o_(Variable(out));
}

void Attention::collect(const std::string& prefix, Parameters& out) const {
    q_.collect(prefix + "q_proj.", out);
    k_.collect(prefix + "k_proj.", out);
    v_.collect(prefix + "v_proj.", out);
    o_.collect(prefix + "o_proj.", out);
}

}  // namespace uipe::nn
