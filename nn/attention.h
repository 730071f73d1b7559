// Causal self-attention with rotary positions and grouped key/value heads, over a packed batch or a cache.
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
};

/// Keys and values of past tokens of one layer, and where those of a batch go.
struct CacheView {
    Tensor keys, values;  // [S, capacity, K*D]
    Tensor slots;         // i32 [T]: the cache row of each token
    Tensor lengths;       // i32 [T], for one new token a cache row: positions + 1. Undefined while a cache row fills
};

class Attention : public Module {
public:
    /// q: [H*D,C]; k, v: [K*D,C]; o: [C,H*D].
    Attention(Tensor q, Tensor k, Tensor v, Tensor o, std::int64_t head_dim, double rope_theta);

    /// y[T,C] from x[T,C]; tokens attend to earlier tokens of their own sequence. With `cache`, keys and values are
    /// also written there; where it has lengths, tokens attend to their cache row, themselves included, and the
    /// packing's offsets are not read. No gradient there, nor where rows are shared: Error when it is asked for.
    Variable operator()(const Variable& x, const Packing& packing, const CacheView* cache = nullptr) const;

    void collect(const std::string& prefix, Parameters& out) const override;

private:
    Variable heads(const Variable& q, const Variable& k, const Variable& v, const Packing& packing,
                   const CacheView* cache) const;

    Linear q_, k_, v_, o_;
    std::int64_t head_dim_;
    double rope_theta_;
};

}  // namespace uipe::nn
