// Scoring text: the log-probability of every target token of many sequences.
#pragma once

#include <functional>

#include "llama/model.h"

namespace uipe::llama {

/// For each sequence, log p(ids[t] | ids[<t]) for t from first_target to the end, in nats. Sequences are packed into
/// batches of about `tokens_per_batch` tokens; `progress(done, total)` is called after each. Neighbours that begin
/// alike are computed once as far as they are alike: keep the answers to one question together. No gradient.
std::vector<std::vector<double>> token_logprobs(const Llama& model, std::span<const Sequence> sequences,
                                                std::int64_t tokens_per_batch = 8192,
                                                const std::function<void(std::size_t, std::size_t)>& progress = {});

}  // namespace uipe::llama
