// The parts of the report's page: each function returns a piece of HTML, "" when the runs hold nothing for it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "unlearn/report/run_record.h"

namespace uipe::unlearn {

/// Forget quality above this is the paper's and the benchmark's sign that forgetting cannot be told from never having
/// learned.
constexpr double forget_quality_threshold = 0.05;

struct ReportData {
    std::vector<RunRecord> unlearning;  // with evaluations by epoch; a run's place is its colour
    std::vector<RunRecord> training;    // other runs with a loss
    std::vector<RunRecord> references;  // runs that hold one evaluation and no epochs
    std::optional<Evaluation> retain;
};

/// `point` trained on: what the same run reaches when the steps go on instead, after `epoch`.
struct Control {
    const EpochRecord* best = nullptr;  // the later epoch of highest forget quality
    const EpochRecord* last = nullptr;
};
Control trained_on(const RunRecord& run, int epoch);

/// The extrapolated point of highest forget quality; null without one.
const ExtrapolationRecord* best_extrapolation(const RunRecord& run);

std::string style_sheet();
std::string results_table(const ReportData& data);
std::string comparison_table(const ReportData& data);
std::string tradeoff_figure(const ReportData& data);
std::string curve_figures(const ReportData& data);
std::string alpha_figures(const ReportData& data);
std::string sample_answers(const ReportData& data);
std::string settings_table(const ReportData& data);

}  // namespace uipe::unlearn
