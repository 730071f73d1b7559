// LLaMA-2-7B with random weights, for benchmarks on a GPU, and the rows that it is trained on and asked about. On the
// emulator all sizes are tiny.
#pragma once

#include "bench/cuda_measure.h"
#include "bench/models.h"

namespace uipe::bench {

constexpr std::int64_t all_layers = tiny ? 2 : 32;
constexpr std::int64_t sequence_length = tiny ? 16 : 2048;

/// LLaMA-2-7B's sizes, with this number of layers.
llama::Config llama_config(std::int64_t layers);

/// bf16, of N(0, 0.02²), norms 1. They go by their names: a model of fewer layers has those of the whole one.
llama::StateDict weights_on_device(const llama::Config& config);

/// Error unless so many bytes are free on the device.
void require_memory(double bytes);

/// One sequence of `sequence_length` tokens, every one with a target.
std::vector<llama::Sequence> one_sequence(const llama::Config& config);

/// Random ids in rows as long as TOFU's: those of the first 32 questions of forget10 with their answers, and each one's
/// partner of 32 of retain90, as a trainer with seed 42 draws it for its first step.
struct TofuRows {
    std::vector<llama::Sequence> forget, retain;
    std::vector<llama::Sequence> partners;  // retain's, in the order of forget
};
TofuRows tofu_rows(const llama::Config& config);

/// As many prompts as a TOFU evaluation generates answers to, 1,017, and as long.
std::vector<std::vector<std::int32_t>> tofu_prompts(const llama::Config& config);

/// The prompt of one sequence that is decoded alone.
std::vector<std::vector<std::int32_t>> one_prompt(const llama::Config& config);

}  // namespace uipe::bench
