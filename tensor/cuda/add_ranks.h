// The sum of what several ranks hold, in the order of ranks.
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace uipe::tensor::cuda {

/// y[n] = rank 0's + rank 1's + …, kept in f32 and rounded once. This rank's numbers are at `own`, which may be y;
/// those of the others follow one another at `others`, `stride` elements apart. f32 or bf16.
struct RankSum {
    void* y;
    const void* own;
    const void* others;
    std::int64_t stride;
    int rank, ranks;
    std::int64_t n;
    DType dtype;
};
/// Queues the sum.
void add_ranks(const RankSum& sum);

}  // namespace uipe::tensor::cuda
