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

/// Keys and values of every layer for `slots` sequences of at most `capacity` tokens, where the model is.
struct KvCache {
    KvCache(const Config& config, std::int64_t slots, std::int64_t capacity, tensor::DType dtype,
            tensor::Device device = {});
    std::vector<tensor::Tensor> keys, values;  // L of [slots, capacity, K*D]
    std::int64_t capacity;
};

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

    /// hidden(batch), also writing keys and values of sequence b to cache row slots[b] (no gradient).
    tensor::Tensor prefill(const Batch& batch, const std::vector<std::int32_t>& slots, KvCache& cache) const;
    /// Hidden states [n,C] of one new token for each of n cache rows, at positions[i] (no gradient).
    tensor::Tensor decode(const tensor::Tensor& tokens, const tensor::Tensor& positions, const tensor::Tensor& slots,
                          KvCache& cache) const;

private:
    struct Block {
        nn::RmsNorm attention_norm;
        nn::Attention attention;
        nn::RmsNorm mlp_norm;
        nn::SwiGlu mlp;

        std::string name;  // for profilers

        Variable operator()(const Variable& x, const nn::Packing& packing, const nn::CacheView* cache) const;
    };
    /// Hidden states of `tokens`, whose keys and values go to `slots` of the cache (nn::CacheView says what they see).
    tensor::Tensor cached(const tensor::Tensor& tokens, const nn::Packing& packing, const tensor::Tensor& slots,
                          const tensor::Tensor& lengths, KvCache& cache) const;

    Config config_;
    std::optional<nn::Embedding> embedding_;
    std::vector<Block> blocks_;
    std::optional<nn::RmsNorm> norm_;
    std::optional<nn::Linear> head_;  // absent when tied
    bool recompute_ = false;
};

}  // namespace uipe::llama
