// The metrics of one answer from how a model sees each of its tokens: is it known by heart, was it trained on?
// `tokens` are an answer's targets; the last ends the sequence. It counts in mia_loss and mia_zlib alone, and what has
// no other token scores 0 in the rest.
#pragma once

#include <span>
#include <string_view>

#include "llama/logprobs.h"

namespace uipe::eval {

using Tokens = std::span<const llama::TokenScore>;

/// The share of tokens that the model would have said, each after the right ones before it.
/// Source: Tirumala et al., "Memorization Without Overfitting" (2022).
double exact_memorization(Tokens tokens);

/// 1 - k/n for the smallest k from which on all of the n tokens are those that the model would have said. As
/// open-unlearning computes it k is n - 1 at most: an answer whose last token is wrong scores 1/n, not 0.
/// Source: Carlini et al., "Extracting Training Data from Large Language Models" (2021).
double extraction_strength(Tokens tokens);

// Attacks: lower for what the model was trained on.

/// The mean loss of a token (Yeom et al. 2018).
double mia_loss(Tokens tokens);

/// That over the bytes zlib compresses `text` to at its default level; open-unlearning's text is the tokens decoded
/// (Carlini et al. 2021). Another library behind zlib's interface, such as zlib-ng, may compress to other lengths.
double mia_zlib(Tokens tokens, std::string_view text);

/// Minus the mean of the lowest 40 per cent of log-probabilities, at least one (Shi et al. 2024).
double mia_min_k(Tokens tokens);

/// The same of (log p - mean) / deviation, the two those of log p over the vocabulary; a variance is 1e-6 at least
/// (Zhang et al. 2025).
double mia_min_k_plus_plus(Tokens tokens);

}  // namespace uipe::eval
