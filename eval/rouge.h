// ROUGE-1 and ROUGE-L as the rouge_score package computes them with its stemmer on.
#pragma once

#include <string_view>

namespace uipe::eval {

struct Rouge {
    double rouge1_recall = 0;  // clipped overlap of words over words of the reference
    double rougeL_recall = 0;  // longest common subsequence over words of the reference
    double rougeL_f1 = 0;      // harmonic mean of that and the same over words of the candidate

    bool operator==(const Rouge&) const = default;
};

/// Scores a candidate against a reference, both UTF-8; all zero when either has no words.
/// Words are maximal runs of [a-z0-9] after lower-casing (any other letter separates words: "Vásquez" is two), and
/// words of more than 3 characters are stemmed. Time grows with the product of the two lengths in words.
/// Source: C.-Y. Lin, "ROUGE" (2004).
Rouge rouge(std::string_view reference, std::string_view candidate);

}  // namespace uipe::eval
