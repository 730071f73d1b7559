#include "eval/row_metrics.h"

#include "tensor/base/error.h"

namespace uipe::eval {
namespace {

constexpr double eps = 1e-10;

double mean_loss(const std::vector<AnswerScore>& answers) {
    double sum = 0;
    for (const auto& answer : answers) sum += answer.avg_loss;
    return sum / static_cast<double>(answers.size());
}

/// Σ exp(shift - loss): shifting the exponent keeps ratios of probabilities exact where each of them would underflow.
double sum_exp(const std::vector<AnswerScore>& answers, double shift) {
    double sum = 0;
    for (const auto& answer : answers) sum += std::exp(shift - answer.avg_loss);
    return sum;
}

}  // namespace

double truth_ratio(const RowScore& row, TruthRatio kind, Protocol protocol) {
    require(!row.perturbed.empty(), "truth_ratio: the row has no perturbed answers");
    const double right = (row.paraphrase ? *row.paraphrase : row.answer).avg_loss;
    const auto n = static_cast<double>(row.perturbed.size());
    if (protocol == Protocol::tofu) {
        if (kind == TruthRatio::arithmetic) return sum_exp(row.perturbed, right) / n;
        const double ratio = std::exp(right - mean_loss(row.perturbed));
        return kind == TruthRatio::geometric ? ratio : 1 / (1 + ratio);
    }
    const double p = std::exp(-right);
    if (kind == TruthRatio::arithmetic) return sum_exp(row.perturbed, 0) / n / (p + eps);
    const double wrong = std::exp(-mean_loss(row.perturbed));
    return kind == TruthRatio::geometric ? wrong / (p + eps) : p / (p + wrong + eps);
}

double normalised_probability(const RowScore& row, Protocol protocol) {
    if (protocol == Protocol::tofu) return 1 / (1 + sum_exp(row.perturbed, row.answer.avg_loss));
    double sum = row.answer.probability();
    for (const auto& answer : row.perturbed) sum += answer.probability();
    return row.answer.probability() / (sum + eps);
}

}  // namespace uipe::eval
