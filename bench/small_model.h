// The model that whole-model benchmarks run: 15 million weights, the sizes of a TinyStories model.
#pragma once

#include "llama/model.h"

namespace uipe::bench {

/// C 288, F 768, L 6, H = K = 6, V 32000, tied: 15.2 million weights.
llama::Config small_config();

/// Sequences of random ids, so that lengths[b] rows of each enter the model, every one with a target.
std::vector<llama::Sequence> random_sequences(const llama::Config& config, const std::vector<std::int64_t>& lengths);

/// FLOPs of the blocks' forward pass over T tokens with these causal pairs:
///   2 T L (2 C H D + 2 C K D + 3 C F) + 4 D H L pairs.
/// Norms, RoPE, SwiGLU and additions are not counted.
double block_flops(const llama::Config& config, double T, double pairs);

/// FLOPs of the head's forward pass over T tokens: 2 T C V.
double head_flops(const llama::Config& config, double T);

}  // namespace uipe::bench
