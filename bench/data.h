// Random inputs, the same on every run.
#pragma once

#include <cstdint>
#include <vector>

#include "tensor/tensor.h"

namespace uipe::bench {

/// A tensor of N(0, 1). Zeros or a repeated number would draw less power and flatter the clock.
tensor::Tensor random_tensor(tensor::Shape shape, tensor::DType dtype, std::uint64_t seed);

/// n token ids below V, i32.
std::vector<std::int32_t> random_ids(std::int64_t n, std::int64_t V, std::uint64_t seed);

/// The lengths of B rows of question and answer, 40 to 170 tokens as TOFU's are.
std::vector<std::int64_t> qa_lengths(std::int64_t B);

/// cu_seqlens[B+1] of sequences of these lengths.
tensor::Tensor offsets(const std::vector<std::int64_t>& lengths);

/// The pairs (query, key) of causal attention: the sum of n (n + 1) / 2 over the sequences.
double causal_pairs(const std::vector<std::int64_t>& lengths);

}  // namespace uipe::bench
