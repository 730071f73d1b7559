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
    std::int32_t place = -1;  // of its first row among all rows of a step: dropout goes by it. -1: nothing is dropped
};

/// Row t holds a token and the token to be predicted from it; sequence b owns rows [cu_seqlens[b], cu_seqlens[b+1]).
struct Batch {
    tensor::Tensor tokens;         // i32 [T]
    tensor::Tensor targets;        // i32 [T], -1 where nothing is to be predicted
    tensor::Tensor positions;      // i32 [T], within the whole sequence
    tensor::Tensor cu_seqlens;     // i32 [B+1]
    tensor::Tensor key_rows;       // i32 [S], where rows are shared: the rows of each whole sequence, in order
    tensor::Tensor cu_keys;        // i32 [B+1]: those of sequence b are key_rows[cu_keys[b]] to [cu_keys[b+1]]
    tensor::Tensor places;         // i32 [T], of each row in its step, where all sequences have a place
    std::int64_t T = 0;            // rows
    std::int64_t B = 0;            // sequences
    std::int64_t num_targets = 0;  // rows whose target is not -1
    std::int64_t max_len = 0;      // rows of the longest sequence
};

/// A sequence of n ids gives n-1 rows: each id but the last, with the next as target from `first_target` on.
/// Error when there is no sequence, or one has fewer than two ids.
Batch pack(std::span<const Sequence> sequences);

/// The same, but a sequence that begins like the one before it takes over the rows they have in common (same token,
/// same target) and adds only the rest: answers to one question share the question. For inference: attention over
/// shared rows has no gradient.
Batch pack_sharing(std::span<const Sequence> sequences);

}  // namespace uipe::llama
