// A batch is one packed stream of tokens, without padding.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tensor/tensor.h"

namespace uipe::llama {

/// The token ids of one row of data, from BOS on, and the index of the first id that is to be predicted.
struct Sequence {
    std::vector<std::int32_t> ids;
    std::int64_t first_target = 1;
};

/// Row t holds a token and the token to be predicted from it; sequence b owns rows [cu_seqlens[b], cu_seqlens[b+1]).
struct Batch {
    tensor::Tensor tokens;         // i32 [T]
    tensor::Tensor targets;        // i32 [T], -1 where nothing is to be predicted
    tensor::Tensor positions;      // i32 [T], from 0 in each sequence
    tensor::Tensor cu_seqlens;     // i32 [B+1]
    std::int64_t T = 0;            // rows
    std::int64_t B = 0;            // sequences
    std::int64_t num_targets = 0;  // rows whose target is not -1
    std::int64_t max_len = 0;      // rows of the longest sequence
};

/// A sequence of n ids gives n-1 rows: each id but the last, with the next as target from `first_target` on.
/// Error when there is no sequence, or one has fewer than two ids.
Batch pack(std::span<const Sequence> sequences);

}  // namespace uipe::llama
