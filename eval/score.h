// The metrics of an evaluation, always computed from the rows of its log.
#pragma once

#include <map>
#include <string>

#include "eval/log.h"
#include "eval/row_metrics.h"

namespace uipe::eval {

struct ScoreOptions {
    /// tofu: the first 300 rows of each set, no epsilon. open_unlearning: all rows, 1e-10 in denominators.
    Protocol protocol = Protocol::open_unlearning;
    TruthRatio truth_ratio = TruthRatio::geometric;
    bool recompute_rouge = false;  // from the texts, in place of what the log holds
};

/// Metric name, as open-unlearning names it, to value.
using Scores = std::map<std::string, double>;

/// Everything that the log's rows allow:
/// {forget, retain, ra, wf}_Q_A_{Prob, ROUGE, PERT_Prob}, {forget, retain}_Q_A_{PARA_Prob, PARA_ROUGE, PERT_ROUGE},
/// {ra, wf}_Q_A_Prob_normalised, forget_truth_ratio, {retain, ra, wf}_Truth_Ratio, model_utility, the log's columns and
/// attacks and, given a retain log, forget_quality and privleak. ROUGE is the recall of ROUGE-L: of the answer to the
/// question as it stands, against the right answer, its paraphrase (PARA) or, in the mean, its perturbations (PERT).
/// Metrics of absent sets are left out.
/// InputError when the retain log has another number of forget rows.
/// Source: Maini et al., "TOFU: A Task of Fictitious Unlearning for LLMs" (2024).
Scores score(const EvalLog& log, const EvalLog* retain_log, const ScoreOptions& options);

}  // namespace uipe::eval
