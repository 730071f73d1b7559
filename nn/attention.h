// Causal self-attention with rotary positions and grouped key/value heads, over a packed batch.
#pragma once

#include "nn/layers.h"

namespace uipe::nn {

/// Where the rows of a packed batch stand.
struct Packing {
    Tensor positions;   // i32 [T], within the sequence
    Tensor cu_seqlens;  // i32 [B+1]
    // Defined where sequences share their first rows: sequence b is then rows key_rows[cu_keys[b]] to [cu_keys[b+1]] of
    // the batch, the last of which it owns.
    Tensor key_rows = {};  // i32 [S]
    Tensor cu_keys = {};   // i32 [B+1]
    DropoutAt dropout = {};
};

class Attention : public Module {
public:
    /// q: [H*D,C]; k, v: [K*D,C]; o: [C,H*D].
    Attention(Tensor q, Tensor k, Tensor v, Tensor o, std::int64_t head_dim, double rope_theta);

    /// y[T,C] from x[T,C]; tokens attend to earlier tokens of their own sequence. No gradient where rows are shared:
    /// Error when it is asked for.
    Variable operator()(const Variable& x, const Packing& packing) const;

    void collect(const std::string& prefix, Parameters& out) const override;
    void each_linear(const EachLinear& f);
    void freeze() override;

private:
    Variable heads(const Variable& q, const Variable& k, const Variable& v, const Packing& packing) const;

    Linear q_, k_, v_, o_;
    std::int64_t head_dim_;
    double rope_theta_;
};

}  // namespace uipe::nn
