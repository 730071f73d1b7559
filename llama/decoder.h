// The model as generation runs it: new tokens of many sequences at once, against a cache of keys and values.
#pragma once

#include "llama/model.h"
#include "tensor/greedy_head.h"
#include "tensor/packed_matrix.h"

namespace uipe::llama {

/// It shares the model's weights and, where that pays, keeps packed copies of its matrices: training in between is not
/// seen, so make one when generation begins and let go of it at the end. No gradients.
class Decoder {
public:
    /// For `slots` sequences of at most `capacity` tokens.
    Decoder(const Llama& model, std::int64_t slots, std::int64_t capacity);

    /// Reads sequence b of the batch into slots[b]; the normalised hidden states [B,C] of the last tokens.
    tensor::Tensor prefill(const Batch& batch, const std::vector<std::int32_t>& slots);
    /// Reads one more token of each of n slots, at positions[i]; the normalised hidden states [n,C].
    tensor::Tensor step(const tensor::Tensor& tokens, const tensor::Tensor& positions, const tensor::Tensor& slots);

    /// i32 [n]: the likeliest next token of each row of hidden[n,C], ties to the lower id.
    tensor::Tensor likeliest(const tensor::Tensor& hidden);
    /// f32 or f64 [n,V], the logits of each row.
    tensor::Tensor logits(const tensor::Tensor& hidden) const;

private:
    /// A weight, and an adapter's matrices beside it: added to it they would be rounded to its type, and lost in bf16.
    struct Matrix {
        tensor::PackedMatrix w;
        tensor::Tensor a, b;  // undefined without an adapter
        double scale = 0;

        tensor::Tensor operator()(const tensor::Tensor& x) const;
    };
    struct Block {
        tensor::Tensor attention_norm, mlp_norm;
        Matrix q, k, v, o, gate, up, down;
        tensor::Tensor keys, values;  // [slots, capacity, K*D]
    };
    /// Where the tokens of one pass stand. While slots fill, tokens attend to their own sequence of the batch; then
    /// `lengths` is undefined.
    struct Places {
        tensor::Tensor positions, slots, cu_seqlens, lengths;
    };
    tensor::Tensor run(const tensor::Tensor& tokens, const Places& places) const;
    tensor::Tensor attend(const Block& block, const tensor::Tensor& x, const Places& places) const;
    tensor::Tensor normalised(const tensor::Tensor& x, const tensor::Tensor& weight) const;

    Config config_;
    bool pack_;
    tensor::Tensor embedding_, norm_, head_;
    std::vector<Block> blocks_;
    std::optional<tensor::GreedyHead> greedy_;  // made when it is first asked
};

}  // namespace uipe::llama
