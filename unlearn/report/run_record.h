// What a run folder holds, read back. Every file of it may be absent; a malformed one is an InputError that names it.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tensor/base/file.h"

namespace uipe::unlearn {

/// What an evaluation measured. `forget_truth_ratio_median` is taken from the log's rows when the summary lacks it.
struct Evaluation {
    fs::path path;
    std::map<std::string, double> metrics;

    std::optional<double> metric(const std::string& name) const;
};

/// The evaluation after `epoch`; epoch 0 is before the first step.
struct EpochRecord {
    int epoch = 0;
    Evaluation evaluation;
};

/// The evaluation of θ_epoch + alpha (θ_epoch − θ_0).
struct ExtrapolationRecord {
    int epoch = 0;
    double alpha = 0;
    Evaluation evaluation;
};

/// One line of metrics.jsonl.
struct StepRecord {
    double step = 0;
    double loss = 0;
};

struct RunRecord {
    fs::path folder;
    std::vector<std::pair<std::string, std::string>> config;  // key, value as text, in the file's order
    std::string label;                                        // for people: the run's name, or else its method's
    std::vector<StepRecord> steps;
    double tokens = 0;                                // trained on, all steps together
    double seconds = 0;                               // spent in steps; 0 where the log does not say
    Evaluation evaluation;                            // of the run folder itself, as `eval` writes it
    std::vector<EpochRecord> epochs;                  // by epoch
    std::vector<ExtrapolationRecord> extrapolations;  // by epoch, then alpha
    std::optional<int> selected;                      // the epoch in selection.json
    std::string selection_reason;

    /// A value of config.json, "" where it has none.
    std::string setting(const std::string& key) const;
    const EpochRecord* at_epoch(int epoch) const;
    /// The epoch that stands for the run: the selected one, or else the last; null when nothing after epoch 0 was
    /// evaluated.
    const EpochRecord* chosen() const;
};

/// One row of an evaluation's *_Q_A_ROUGE.
struct Answer {
    std::string question;  // the prompt without Llama-2's [INST] marks
    std::string truth;
    std::string generation;
};

/// From a folder with TOFU_SUMMARY.json, TOFU_EVAL.json or both (the summary goes first), or from one such file.
Evaluation read_evaluation(const fs::path& path);

/// InputError when `folder` is not a folder.
RunRecord read_run(const fs::path& folder);

/// The rows of `metric` (say "forget_Q_A_ROUGE") in a folder's TOFU_EVAL.json by index; empty where there are none.
std::map<int, Answer> read_answers(const fs::path& folder, const std::string& metric);

/// A method's name as papers write it ("npo_rt" -> "NPO-RT"); an unknown one comes back as it is.
std::string method_name(const std::string& method);

}  // namespace uipe::unlearn
