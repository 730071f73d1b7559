#include "llama/decoder.h"

#include "tensor/ops.h"

namespace uipe::llama {
namespace {

using tensor::DType;
using tensor::PackedMatrix;
using tensor::Tensor;

/// Packing pays where products have rows enough to be bound by arithmetic, and a second copy of the weights is small.
bool worth_packing(const Llama& model, std::int64_t slots) {
    constexpr std::int64_t fewest_slots = 4;
    constexpr std::size_t most_bytes = std::size_t{1} << 30;
    const auto weights = static_cast<std::size_t>(parameter_count(model.config()));
    return slots >= fewest_slots && weights * tensor::size_of(model.dtype()) <= most_bytes;
}

Tensor like(const Tensor& x) { return Tensor::empty(x.shape(), x.dtype(), x.device()); }

Tensor added(const Tensor& x, const Tensor& r) {
    Tensor y = like(x);
    tensor::add(y, x, r);
    return y;
}

/// y[n,C] = x[T,C] at index[n].
Tensor rows_at(const Tensor& x, const std::vector<std::int32_t>& index) {
    Tensor y = Tensor::empty({static_cast<std::int64_t>(index.size()), x.dim(1)}, x.dtype(), x.device());
    tensor::embedding(y, x, Tensor::from(index));
    return y;
}

}  // namespace

/// x[T,C] w[N,C]^T, and what the adapter adds.
Tensor Decoder::Matrix::operator()(const Tensor& x) const {
    Tensor y = Tensor::empty({x.dim(0), w.weight().dim(0)}, x.dtype(), x.device());
    w.multiply(y, x);
    if (!a.defined()) return y;
    const Tensor inner = Tensor::empty({x.dim(0), a.dim(0)}, x.dtype(), x.device());
    tensor::matmul(inner, x, false, a, true);
    tensor::axpby(inner, scale, inner, 0.0);
    tensor::matmul(y, inner, false, b, true, true);
    return y;
}

Decoder::Decoder(const Llama& model, std::int64_t slots, std::int64_t capacity)
    : config_(model.config()), pack_(worth_packing(model, slots)), head_(model.head().value()) {
    const StateDict weights = model.weights();
    const Adapter adapter = model.lora() ? model.adapter() : Adapter{};
    const tensor::Shape cache{slots, capacity, config_.num_kv_heads * config_.head_dim};
    embedding_ = weights.at("model.embed_tokens.weight");
    norm_ = weights.at("model.norm.weight");
    for (std::int64_t l = 0; l < config_.num_layers; ++l) {
        const auto norm = [&](const char* name) { return weights.at(cat("model.layers.", l, ".", name, ".weight")); };
        const auto matrix = [&](const char* name) {
            const std::string p = cat("model.layers.", l, ".", name, ".");
            Matrix m{PackedMatrix(weights.at(p + "weight"), pack_), {}, {}};
            if (const auto a = adapter.weights.find(p + "lora_A.weight"); a != adapter.weights.end())
                m = {m.w, a->second, adapter.weights.at(p + "lora_B.weight"), adapter.config.scale()};
            return m;
        };
        blocks_.push_back({norm("input_layernorm"), norm("post_attention_layernorm"), matrix("self_attn.q_proj"),
                           matrix("self_attn.k_proj"), matrix("self_attn.v_proj"), matrix("self_attn.o_proj"),
                           matrix("mlp.gate_proj"), matrix("mlp.up_proj"), matrix("mlp.down_proj"),
                           Tensor::empty(cache, model.dtype(), model.device()),
                           Tensor::empty(cache, model.dtype(), model.device())});
    }
}

Tensor Decoder::prefill(const Batch& batch, const std::vector<std::int32_t>& slots) {
    const std::int32_t* cu = batch.cu_seqlens.data<std::int32_t>();
    std::vector<std::int32_t> slot_of_row;
    std::vector<std::int32_t> last;
    for (std::size_t b = 0; b < slots.size(); ++b) {
        slot_of_row.insert(slot_of_row.end(), static_cast<std::size_t>(cu[b + 1] - cu[b]), slots[b]);
        last.push_back(cu[b + 1] - 1);
    }
    return rows_at(run(batch.tokens, {batch.positions, Tensor::from(slot_of_row), batch.cu_seqlens, {}}), last);
}

Tensor Decoder::step(const Tensor& tokens, const Tensor& positions, const Tensor& slots) {
    std::vector<std::int32_t> lengths = positions.to_vector<std::int32_t>();
    for (std::int32_t& n : lengths) ++n;
    return run(tokens, {positions, slots, {}, Tensor::from(lengths)});
}

Tensor Decoder::likeliest(const Tensor& hidden) {
    if (!greedy_) greedy_.emplace(head_, pack_);
    return greedy_->likeliest(hidden);
}

Tensor Decoder::logits(const Tensor& hidden) const {
    Tensor y = Tensor::empty({hidden.dim(0), head_.dim(0)}, tensor::accumulator_of(hidden.dtype()), hidden.device());
    tensor::logits(y, hidden, head_);
    return y;
}

Tensor Decoder::run(const Tensor& tokens, const Places& places) const {
    Tensor x = Tensor::empty({tokens.numel(), config_.hidden_size}, embedding_.dtype(), embedding_.device());
    tensor::embedding(x, embedding_, tokens);
    for (const Block& block : blocks_) {
        const Tensor heads = attend(block, normalised(x, block.attention_norm), places);
        const Tensor middle = added(x, block.o(heads));
        const Tensor y = normalised(middle, block.mlp_norm);
        const Tensor gate = block.gate(y);
        const Tensor inner = like(gate);
        tensor::swiglu(inner, gate, block.up(y));
        x = added(middle, block.down(inner));
    }
    return normalised(x, norm_);
}

/// The heads' outputs [T,H*D], before they are mixed; writes keys and values to the cache.
Tensor Decoder::attend(const Block& block, const Tensor& x, const Places& places) const {
    const std::int64_t D = config_.head_dim;
    const auto turned = [&](const Tensor& heads) {
        Tensor y = like(heads);
        tensor::rope(y, heads, places.positions, D, config_.rope_theta, false);
        return y;
    };
    const Tensor q = turned(block.q(x));
    const Tensor k = turned(block.k(x));
    const Tensor v = block.v(x);
    tensor::cache_write(block.keys, k, places.slots, places.positions);
    tensor::cache_write(block.values, v, places.slots, places.positions);
    Tensor out = like(q);
    if (places.lengths.defined()) {
        tensor::attention_decode(out, q, block.keys, block.values, places.slots, places.lengths, D);
        return out;
    }
    const Tensor lse = Tensor::empty({q.dim(0), config_.num_heads}, tensor::accumulator_of(q.dtype()), q.device());
    tensor::attention(out, lse, q, k, v, places.cu_seqlens, places.cu_seqlens, D);
    return out;
}

Tensor Decoder::normalised(const Tensor& x, const Tensor& weight) const {
    Tensor y = like(x);
    tensor::rmsnorm(y, Tensor::empty({x.dim(0)}, tensor::accumulator_of(x.dtype()), x.device()), x, weight,
                    config_.rms_norm_eps);
    return y;
}

}  // namespace uipe::llama
