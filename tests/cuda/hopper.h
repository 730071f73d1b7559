// Kernels that use one primitive of hopper.h each, for hopper_test.cpp.
#pragma once

#include <cstdint>
#include <vector>

#include "tensor/dtype.h"

namespace uipe::tensor::test {

/// Whether the device runs them.
bool has_hopper();

/// A matrix in shared memory: bytes from its first on, and what its descriptor says.
struct InShared {
    std::vector<std::uint16_t> image;  // of shared memory
    int begin = 0;                     // the descriptor's address, a byte of the image
    int leading = 0, stride = 0;       // bytes
    int swizzle = 0;                   // 0: none, 1: 128 bytes, 2: 64, 3: 32
};

/// d[64,N] = c + a[64,16] b[16,N] by one product of a warpgroup, N 64 or 128, with b as a matrix, N contiguous if
/// `across`. `a` as a matrix, or, where its image is empty, from registers: `a_values`, [64,16].
std::vector<float> group_product(int N, const InShared& a, const std::vector<float>& a_values, const InShared& b,
                                 bool across, const std::vector<float>& c);
/// The same without c: what was in d before counts for nothing.
std::vector<float> group_product_afresh(int N, const InShared& a, const InShared& b, bool across);

/// A box of a tensor of three dimensions, from x, y, z on, as it lies in shared memory.
struct BoxCopied {
    std::int64_t sizes[3];
    std::int64_t strides[2];  // bytes
    int box[3];
    int swizzle;
    int at[3];
    std::int64_t base = 0;  // of the tensor, in elements from the first of `values` on
};
std::vector<bf16> copied_box(const std::vector<bf16>& values, const BoxCopied& b);

/// `items` numbers that go through a ring of two buffers from one warp to two others: what the two get, in turn.
std::vector<std::uint32_t> through_a_ring(int items);
/// Each of four warps gives its number to the other of its pair, by a barrier of the pair.
std::vector<std::uint32_t> exchanged_in_pairs();

}  // namespace uipe::tensor::test
