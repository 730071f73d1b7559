// The Llama model (Touvron et al. 2023) over a packed batch.
#pragma once

#include <memory>
#include <optional>

#include "llama/batch.h"
#include "llama/config.h"
#include "llama/safetensors.h"
#include "nn/attention.h"

namespace uipe::llama {

using autograd::Variable;

/// Fresh weights in `dtype`: matrices ~ N(0, initializer_range²), norm weights 1. The same for every dtype but
/// rounding, and on every device.
StateDict random_weights(const Config& config, tensor::DType dtype, std::uint64_t seed, tensor::Device device = {});

/// `weights` in `dtype` on `device`: shared where they are that already, so perhaps mapped from files and read-only.
/// They are converted on the host and moved one at a time.
StateDict moved_weights(const StateDict& weights, tensor::DType dtype, tensor::Device device = {});
/// A private copy of `weights` in `dtype` on `device`, for training.
StateDict own_weights(const StateDict& weights, tensor::DType dtype, tensor::Device device = {});

class Llama : public nn::Module {
public:
    /// A model of the given weights, all of one type, which it shares: training changes them in place.
    /// Error unless they are those of expected_weights(config).
    Llama(const Config& config, const StateDict& weights);

    const Config& config() const { return config_; }
    tensor::DType dtype() const { return head().value().dtype(); }
    tensor::Device device() const { return head().value().device(); }
    /// The weights by name, sharing storage.
    StateDict weights() const;
    void collect(const std::string& prefix, nn::Parameters& out) const override;

    /// The normalised hidden states [T,C] that the LM head reads. No gradient where sequences share rows.
    Variable hidden(const Batch& batch) const;
    /// logp[T] of the batch's targets, 0 where there is none.
    Variable logprob(const Batch& batch) const;
    /// The LM head [V,C]; the embedding when tied.
    const Variable& head() const;

    /// When on, the backward pass recomputes each block from its input: memory for L inputs and one block.
    void set_recompute(bool on) { recompute_ = on; }

private:
    struct Block {
        nn::RmsNorm attention_norm;
        nn::Attention attention;
        nn::RmsNorm mlp_norm;
        nn::SwiGlu mlp;

        std::string name;  // for profilers

        Variable operator()(const Variable& x, const nn::Packing& packing) const;
    };

    Config config_;
    std::optional<nn::Embedding> embedding_;
    std::vector<Block> blocks_;
    std::optional<nn::RmsNorm> norm_;
    std::optional<nn::Linear> head_;  // absent when tied
    bool recompute_ = false;
};

}  // namespace uipe::llama
