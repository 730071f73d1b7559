// Scoring text: how likely a model finds every target token of many sequences.
#pragma once

#include <functional>

#include "llama/model.h"

namespace uipe::llama {

/// For each sequence, log p(ids[t] | ids[<t]) for t from first_target to the end, in nats. Sequences are packed into
/// batches of about `tokens_per_batch` tokens; `progress(done, total)` is called after each. Neighbours that begin
/// alike are computed once as far as they are alike: keep the answers to one question together. No gradient. Diverged
/// where one is not finite.
std::vector<std::vector<double>> token_logprobs(const Llama& model, std::span<const Sequence> sequences,
                                                std::int64_t tokens_per_batch = 8192,
                                                const std::function<void(std::size_t, std::size_t)>& progress = {});

/// How a model sees one token that was to be predicted.
struct TokenScore {
    double logp = 0;  // of the token, in nats
    // Looked at closely:
    bool likeliest = false;         // whether the model would have said it: the first of the most likely tokens
    double mean = 0, variance = 0;  // of log p over the vocabulary, each token weighted by its p

    bool operator==(const TokenScore&) const = default;
};

/// The same targets. A close look costs a few operations for each logit; without it only `logp` is there.
std::vector<std::vector<TokenScore>> token_scores(const Llama& model, std::span<const Sequence> sequences, bool closely,
                                                  std::int64_t tokens_per_batch = 8192,
                                                  const std::function<void(std::size_t, std::size_t)>& progress = {});

}  // namespace uipe::llama
