// The metrics of one row, from how well a model predicts its answers.
#pragma once

#include "eval/log.h"

namespace uipe::eval {

/// How the probabilities of perturbed answers are set against that of the right one, p (all p^(1/tokens)):
/// geometric: (Π p_i)^(1/n) / p, used for every published number; arithmetic: mean p_i / p, the TOFU paper's text;
/// prob_mean: p / (p + (Π p_i)^(1/n)), the OpenUnlearning paper's, where larger is better.
enum class TruthRatio { geometric, arithmetic, prob_mean };

/// The truth ratio of a row with perturbed answers; the right answer is the paraphrase where the row has one.
/// open-unlearning adds 1e-10 to the denominator. Source: Maini et al., "TOFU" (2024).
double truth_ratio(const RowScore& row, TruthRatio kind, Protocol protocol);

/// p / (p + Σ p_i) with p of the answer itself; open-unlearning adds 1e-10 to the denominator.
double normalised_probability(const RowScore& row, Protocol protocol);

}  // namespace uipe::eval
