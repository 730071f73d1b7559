#include "llama/model.h"

#include "tensor/ops.h"
#include "tensor/profile.h"

namespace uipe::llama {

namespace {}  // namespace

StateDict random_weights(const Config& config, tensor::DType dtype, std::uint64_t seed, tensor::Device device) {
    StateDict weights;
    std::uint64_t stream = 0;
    for (const auto& [name, shape] : expected_weights(config)) {
        tensor::Tensor w = tensor::Tensor::empty(shape, dtype, device);
        if (shape.size() == 1)
            tensor::fill(w, 1.0);
        else
            tensor::fill_normal(w, config.initializer_range, seed, stream);
        weights[name] = w;
        ++stream;
    }
    return weights;
}

StateDict moved_weights(const StateDict& weights, tensor::DType dtype, tensor::Device device) {
    StateDict out;
    for (const auto& [name, w] : weights) out[name] = w.to(dtype).to(device);
    return out;
}

StateDict own_weights(const StateDict& weights, tensor::DType dtype, tensor::Device device) {
    StateDict out = moved_weights(weights, dtype, device);
    for (auto& [name, w] : out)
        if (w.raw() == weights.at(name).raw()) w = w.clone();
    return out;
}

Llama::Llama(const Config& config, const StateDict& weights) : config_(config) {
    for (const auto& [name, shape] : expected_weights(config)) {
        const auto found = weights.find(name);
        require(found != weights.end(), "model lacks the weight ", name);
        require(found->second.shape() == shape, "weight ", name, " has shape ",
                tensor::to_string(found->second.shape()), ", the config asks for ", tensor::to_string(shape));
    }
    const auto at = [&](const std::string& name) { return weights.at(name); };
    embedding_.emplace(at("model.embed_tokens.weight"));
    for (std::int64_t l = 0; l < config.num_layers; ++l) {
        const std::string p = cat("model.layers.", l, ".");
        const std::string attention = p + "self_attn.";
        blocks_.push_back(Block{
            nn::RmsNorm(at(p + "input_layernorm.weight"), config.rms_norm_eps),
            nn::Attention(at(attention + "q_proj.weight"), at(attention + "k_proj.weight"),
                          at(attention + "v_proj.weight"), at(attention + "o_proj.weight"), config.head_dim,
                          config.rope_theta),
            nn::RmsNorm(at(p + "post_attention_layernorm.weight"), config.rms_norm_eps),
            nn::SwiGlu(at(p + "mlp.gate_proj.weight"), at(p + "mlp.up_proj.weight"), at(p + "mlp.down_proj.weight")),
            cat("layer ", l)});
    }
    norm_.emplace(at("model.norm.weight"), config.rms_norm_eps);
    if (!config.tie_word_embeddings) head_.emplace(at("lm_head.weight"));
}

StateDict Llama::weights() const {
    StateDict out;
    for (const nn::Parameter& p : parameters()) out[p.name] = p.variable.value();
    return out;
}

void Llama::collect(const std::string& prefix, nn::Parameters& out) const {
    embedding_->collect(prefix + "model.embed_tokens.", out);
    for (std::size_t l = 0; l < blocks_.size(); ++l) {
        const std::string p = cat(prefix, "model.layers.", l, ".");
        blocks_[l].attention_norm.collect(p + "input_layernorm.", out);
        blocks_[l].attention.collect(p + "self_attn.", out);
        blocks_[l].mlp_norm.collect(p + "post_attention_layernorm.", out);
        blocks_[l].mlp.collect(p + "mlp.", out);
    }
    norm_->collect(prefix + "model.norm.", out);
    if (head_) head_->collect(prefix + "lm_head.", out);
}

const Variable& Llama::head() const { return head_ ? head_->weight() : embedding_->weight(); }

Variable Llama::Block::operator()(const Variable& x, const nn::Packing& packing) const {
    const tensor::Range range(name.c_str());
    const Variable middle = autograd::add(x, attention(attention_norm(x), packing));
    return autograd::add(middle, mlp(mlp_norm(middle)));
}

Variable Llama::hidden(const Batch& batch) const {
    const nn::Packing packing{batch.positions, batch.cu_seqlens, batch.key_rows, batch.cu_keys};
    Variable x = (*embedding_)(batch.tokens);
    for (const Block& block : blocks_) {
        const auto run = [&block, packing](const Variable& in) { return block(in, packing); };
        x = recompute_ ? autograd::checkpoint(run, x) : run(x);
    }
    return (*norm_)(x);
}

Variable Llama::logprob(const Batch& batch) const {
    return autograd::token_logprob(hidden(batch), head(), batch.targets);
}

}  // namespace uipe::llama
