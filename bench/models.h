// The models that whole-model benchmarks run, with random weights.
#pragma once

#include "llama/model.h"

namespace uipe::bench {

/// A model and the name that benchmarks and bench/compare.py know it by.
struct NamedModel {
    const char* name;
    llama::Config config;
};

/// "15M": C 288, F 768, L 6, H = K = 6, V 32000, tied, the sizes of a TinyStories model: 15.2 million weights.
const NamedModel& small_model();
/// "demo": C 96, F 256, L 4, H = K = 4, V 1000, tied, the sizes of the demo's model.
const NamedModel& demo_model();
/// "110M": C 768, F 2048, L 12, H = K = 12, V 32000, tied: 109.5 million weights.
const NamedModel& large_model();

/// Sequences of random ids, so that lengths[b] rows of each enter the model, every one with a target.
std::vector<llama::Sequence> random_sequences(const llama::Config& config, const std::vector<std::int64_t>& lengths);

/// The batch of a training step: four sequences of 256 rows.
std::vector<llama::Sequence> step_sequences(const llama::Config& config);

/// The weights of every benchmark of a model: the same for every dtype but rounding.
llama::StateDict weights_of(const NamedModel& model, tensor::DType dtype);

/// FLOPs of the blocks' forward pass over T tokens with these causal pairs:
///   2 T L (2 C H D + 2 C K D + 3 C F) + 4 D H L pairs.
/// Norms, RoPE, SwiGLU and additions are not counted.
double block_flops(const llama::Config& config, double T, double pairs);

/// FLOPs of the head's forward pass over T tokens: 2 T C V.
double head_flops(const llama::Config& config, double T);

}  // namespace uipe::bench
