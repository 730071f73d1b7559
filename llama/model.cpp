#include "llama/model.h"

#include "tensor/ops.h"
#include "tensor/profile.h"

namespace uipe::llama {

const char* name_of(Recompute what) {
    constexpr const char* names[] = {"none", "norm", "mlp", "block"};
    return names[static_cast<int>(what)];
}

Recompute recompute_named(const std::string& name) {
    for (const Recompute what : {Recompute::none, Recompute::norm, Recompute::mlp, Recompute::block})
        if (name == name_of(what)) return what;
    throw InputError(cat("unknown --recompute '", name, "'; known: none, norm, mlp, block, and auto for a run"));
}

namespace {

bool of_adapter(const std::string& parameter) { return parameter.find(".lora_") != std::string::npos; }

}  // namespace

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
    for (const nn::Parameter& p : parameters())
        if (!of_adapter(p.name)) out[p.name] = p.variable.value();
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

void Llama::freeze() {
    embedding_->freeze();
    for (Block& block : blocks_)
        for (nn::Module* part :
             std::initializer_list<nn::Module*>{&block.attention_norm, &block.attention, &block.mlp_norm, &block.mlp})
            part->freeze();
    norm_->freeze();
    if (head_) head_->freeze();
}

void Llama::each_linear(const EachMatrix& f) {
    for (std::size_t l = 0; l < blocks_.size(); ++l) {
        const std::string p = cat("model.layers.", l, ".");
        blocks_[l].attention.each_linear(
            [&](const std::string& name, nn::Linear& linear) { f(cat(p, "self_attn.", name, "."), linear); });
        blocks_[l].mlp.each_linear(
            [&](const std::string& name, nn::Linear& linear) { f(cat(p, "mlp.", name, "."), linear); });
    }
}

void Llama::set_adapter(const Adapter& adapter, tensor::DType dtype, tensor::Device device) {
    const auto expected = expected_adapter(config_, adapter.config);
    require(adapter.weights.size() == expected.size(), "an adapter of ", adapter.weights.size(),
            " matrices for a model that asks for ", expected.size());
    const auto own = [&](const std::string& name) {
        const auto found = adapter.weights.find(name);
        require(found != adapter.weights.end() && found->second.shape() == expected.at(name), "the adapter lacks ",
                name, " of shape ", tensor::to_string(expected.at(name)));
        const tensor::Tensor w = found->second.to(dtype).to(device);
        return w.raw() == found->second.raw() ? w.clone() : w;
    };
    freeze();
    std::uint64_t stream = 0;
    each_linear([&](const std::string& name, nn::Linear& linear) {
        ++stream;
        linear.set_adapter({});
        if (expected.count(name + "lora_A.weight") != 0)
            linear.set_adapter(nn::Lora(own(name + "lora_A.weight"), own(name + "lora_B.weight"),
                                        adapter.config.scale(), adapter.config.dropout, stream));
    });
    lora_ = adapter.config;
}

Adapter Llama::adapter() const {
    require(lora_.has_value(), "a model without an adapter is asked for it");
    Adapter out{*lora_, {}};
    for (const nn::Parameter& p : parameters())
        if (of_adapter(p.name)) out.weights[p.name] = p.variable.value();
    return out;
}

Llama Llama::reference() const {
    Adapter now = adapter();
    Llama out = *this;
    if (is_zero(now)) {
        out.each_linear([](const std::string&, nn::Linear& linear) { linear.set_adapter({}); });
        out.lora_.reset();
    } else {
        now.config.dropout = 0;
        const tensor::Tensor& own = now.weights.begin()->second;
        out.set_adapter(now, own.dtype(), own.device());
        out.freeze();
    }
    return out;
}

const Variable& Llama::head() const { return head_ ? head_->weight() : embedding_->weight(); }

Variable Llama::Block::operator()(const Variable& x, const nn::Packing& packing, Recompute recompute) const {
    const tensor::Range range(name.c_str());
    if (recompute == Recompute::mlp) {
        const Variable middle = autograd::add(x, attention(attention_norm(x), packing));
        const auto inner = [this, dropout = packing.dropout](const Variable& in) {
            return mlp.inner(mlp_norm(in), dropout);
        };
        return autograd::add(middle, mlp.down(autograd::checkpoint(inner, middle), packing.dropout));
    }
    const auto [middle, y] = mlp_norm(x, attention(attention_norm(x), packing));
    return autograd::add(middle, mlp(y, packing.dropout));
}

std::vector<nn::Parameters> Llama::units() const {
    std::vector<nn::Parameters> out(blocks_.size() + (head_ ? 2 : 1));
    for (nn::Parameter& p : parameters()) {
        const std::string block = "model.layers.";
        const std::size_t last = out.size() - 1;
        const bool first = p.name.starts_with("model.embed_tokens.") || !head_;
        const bool in_block = p.name.starts_with(block);
        out[in_block ? 1 + std::stoul(p.name.substr(block.size())) : first ? 0 : last].push_back(std::move(p));
    }
    return out;
}

Variable Llama::next_unit(const Variable& x, std::size_t unit, bool last) const {
    if (observer_ == nullptr) return x;
    const bool tied = !head_;  // then unit 0 stays: the head is read at the end
    if (!tied || unit > 0) observer_->after_forward(unit);
    if (!last) observer_->before_forward(unit + 1);
    return autograd::on_backward(x, [observer = observer_, unit, last] {
        if (!last) observer->after_backward(unit + 1);
        if (unit > 0) observer->before_backward(unit);  // the embedding's gradient does not read the embedding
    });
}

Variable Llama::run_blocks(const Batch& batch, std::size_t blocks, bool over) const {
    const nn::Packing packing{
        batch.positions, batch.cu_seqlens, batch.key_rows, batch.cu_keys, {dropout_seed_, batch.places}};
    const autograd::KeepValues guard(recompute_ == Recompute::none);
    if (observer_ != nullptr) observer_->before_forward(0);
    Variable x = next_unit((*embedding_)(batch.tokens), 0, over && blocks == 0);
    for (std::size_t l = 0; l < blocks; ++l) {
        const auto run = [&block = blocks_[l], packing, what = recompute_](const Variable& in) {
            return block(in, packing, what);
        };
        x = next_unit(recompute_ == Recompute::block ? autograd::checkpoint(run, x) : run(x), l + 1,
                      over && l + 1 == blocks);
    }
    return x;
}

Variable Llama::hidden(const Batch& batch) const {
    const autograd::KeepValues guard(recompute_ == Recompute::none);
    return (*norm_)(run_blocks(batch, blocks_.size(), !head_));
}

Variable Llama::hidden_after(const Batch& batch, std::int64_t layers) const {
    require(layers >= 0 && layers <= config_.num_layers, "hidden states behind block ", layers, " of ",
            config_.num_layers);
    return run_blocks(batch, static_cast<std::size_t>(layers), true);
}

Variable Llama::logprob(const Batch& batch) const {
    return autograd::token_logprob(hidden(batch), head(), batch.targets);
}

}  // namespace uipe::llama
