// Kernels that use one primitive of device.h each, for primitives_test.cpp and detectors_test.cpp.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "tensor/dtype.h"

namespace uipe::tensor::test {

/// d[16,8] = c + a[16,16] b[16,8] by one mma, the operands laid out in registers by this function as the PTX ISA says.
std::vector<float> mma_product(const std::vector<float>& a, const std::vector<float>& b, const std::vector<float>& c);
/// What each lane gets in r[0..3] when matrix m, row i holds the numbers 64 m + 8 i + j: [32][4] pairs, low half first.
std::vector<std::uint32_t> loaded_matrices(bool transposed);
/// x[256] through copy_async in two groups of which `waited` are waited for, the second half not valid.
std::vector<std::uint32_t> copied(const std::vector<std::uint32_t>& x);
/// [32] of: shuffle_xor 5, shuffle from lane (3 l) % 32, the ballot of odd lanes, warp_sum, warp_max of x = lane *
/// lane.
std::array<std::vector<float>, 5> warp_results();
/// block_sum and block_max of 0 … n-1, one block of n threads, as seen by each thread.
std::vector<float> block_results(int n);
/// exp2, exp, log, log1p, sqrt of each x, in this order.
std::vector<float> math_results(const std::vector<float>& x);
/// to_bf16 of each x.
std::vector<bf16> rounded(const std::vector<float>& x);

}  // namespace uipe::tensor::test
