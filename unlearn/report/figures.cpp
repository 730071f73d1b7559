// The report's pictures, with legends in HTML: text that comes from a file never reaches gnuplot.
#include <algorithm>

#include "tensor/base/error.h"
#include "unlearn/report/figure.h"
#include "unlearn/report/html.h"
#include "unlearn/report/parts.h"
#include "unlearn/report/plot.h"

namespace uipe::unlearn {
namespace {

constexpr int grey = 7;

std::string legend(const std::vector<RunRecord>& runs, const std::string& more = "") {
    std::string out = "<ul class=\"legend\">";
    for (std::size_t i = 0; i < runs.size(); ++i)
        out += cat("<li><span class=\"swatch\" style=\"background:", plot_color(static_cast<int>(i)), "\"></span>",
                   escaped(runs[i].label), "</li>");
    return out + more + "</ul>\n";
}

void add_point(Series& series, std::optional<double> x, std::optional<double> y) {
    if (x && y) series.points.emplace_back(*x, *y);
}

void add_tradeoff_point(Series& series, const EvaluationRecord& evaluation) {
    add_point(series, evaluation.metric("model_utility"), evaluation.metric("forget_quality"));
}

/// The extrapolated points of a run, a series for each epoch they start from, the epoch itself (alpha 0) first.
template <class AddPoint>
std::vector<Series> extrapolated_series(const RunRecord& run, int color, const AddPoint& add) {
    std::vector<Series> out;
    int base = -1;
    for (const ExtrapolationRecord& point : run.extrapolations) {
        if (point.epoch != base) {
            base = point.epoch;
            out.push_back({{}, color, Line::dashed, Marker::diamond});
            if (const EpochRecord* origin = run.at_epoch(base)) add(out.back(), 0.0, origin->evaluation);
        }
        add(out.back(), point.alpha, point.evaluation);
    }
    return out;
}

void append(std::vector<Series>& to, std::vector<Series> more) {
    for (Series& series : more) to.push_back(std::move(series));
}

/// A metric by epoch, a curve a run.
Plot curve(const ReportData& data, const std::string& metric, const std::string& axis, bool quality = false) {
    Plot plot{.x_label = "epoch", .y_label = axis, .whole_x = true, .log_y = quality};
    if (quality) plot.threshold = forget_quality_threshold;
    for (std::size_t i = 0; i < data.unlearning.size(); ++i) {
        Series series{{}, static_cast<int>(i), Line::solid, Marker::dot};
        for (const EpochRecord& record : data.unlearning[i].epochs)
            add_point(series, record.epoch, record.evaluation.metric(metric));
        plot.series.push_back(series);
    }
    return plot;
}

/// A metric against alpha, a curve for each epoch that was extrapolated.
Plot alpha_curve(const ReportData& data, const std::string& metric, const std::string& axis, bool quality) {
    Plot plot{.x_label = "α", .y_label = axis, .log_y = quality};
    if (quality) plot.threshold = forget_quality_threshold;
    for (std::size_t i = 0; i < data.unlearning.size(); ++i)
        append(plot.series, extrapolated_series(data.unlearning[i], static_cast<int>(i),
                                                [&](Series& series, double alpha, const EvaluationRecord& evaluation) {
                                                    add_point(series, alpha, evaluation.metric(metric));
                                                }));
    return plot;
}

Plot loss_curve(const std::vector<RunRecord>& runs, int first_color) {
    constexpr std::size_t most_points = 600;  // more than the picture has columns for
    Plot plot{.x_label = "step", .y_label = "loss"};
    for (std::size_t i = 0; i < runs.size(); ++i) {
        Series series{{}, first_color + static_cast<int>(i), Line::solid, Marker::none};
        const std::vector<StepRecord>& steps = runs[i].steps;
        const std::size_t stride = std::max<std::size_t>(1, steps.size() / most_points);
        for (std::size_t at = 0; at < steps.size(); at += stride)
            series.points.emplace_back(steps[at].step, steps[at].loss);
        plot.series.push_back(series);
    }
    return plot;
}

}  // namespace

std::string tradeoff_figure(const ReportData& data) {
    Plot plot{.x_label = "model utility (right: more was kept)",
              .y_label = "forget quality (up: more was forgotten)",
              .log_y = true,
              .log_floor = 1e-6,
              .threshold = forget_quality_threshold,
              .width = 520,
              .height = 370};
    for (std::size_t i = 0; i < data.unlearning.size(); ++i) {
        const RunRecord& run = data.unlearning[i];
        const int color = static_cast<int>(i);
        Series epochs{{}, color, Line::solid, Marker::dot}, chosen{{}, color, Line::none, Marker::ring};
        for (const EpochRecord& record : run.epochs) add_tradeoff_point(epochs, record.evaluation);
        if (const EpochRecord* record = run.chosen()) add_tradeoff_point(chosen, record->evaluation);
        plot.series.push_back(epochs);
        plot.series.push_back(chosen);
        append(plot.series,
               extrapolated_series(run, color, [](Series& series, double, const EvaluationRecord& evaluation) {
                   add_tradeoff_point(series, evaluation);
               }));
    }
    if (data.retain) {  // against itself its forget quality is 1
        Series star{{}, grey, Line::none, Marker::star};
        add_point(star, data.retain->metric("model_utility"), 1.0);
        plot.series.push_back(star);
    }
    const std::string drawing =
        figure(plot, "tradeoff", "Forgetting against utility",
               "The goal is the upper right corner. The dashed line is forget quality 0.05; values "
               "below 10<sup>−6</sup> are drawn at 10<sup>−6</sup>.",
               "wide");
    if (drawing.empty()) return "";
    const std::string marks =
        "<li><b>●</b> an epoch of training</li><li><b>○</b> the selected epoch</li>"
        "<li><b>◇</b> UIPE, α growing along the dashes</li><li><b>✳</b> retain model</li>";
    return cat("<section id=\"tradeoff\">", legend(data.unlearning, marks), drawing, "</section>\n");
}

std::string curve_figures(const ReportData& data) {
    std::string out = figure(curve(data, "forget_quality", "forget quality", true), "quality", "Forget quality",
                             "The dashed line is 0.05; values below 10<sup>−12</sup> are drawn at 10<sup>−12</sup>.");
    out += figure(curve(data, "model_utility", "model utility"), "utility", "Model utility", "");
    out += figure(curve(data, "forget_Q_A_Prob", "probability"), "probability", "Probability of the forgotten answers",
                  "");
    out += figure(curve(data, "forget_Q_A_ROUGE", "ROUGE-L recall"), "rouge", "ROUGE of the forgotten answers", "");
    out += figure(loss_curve(data.unlearning, 0), "loss", "Loss of unlearning",
                  "Each method has a loss of its own: compare a curve with itself, not with another.");
    const std::string curves = out.empty() ? ""
                                           : cat("<h2>Epoch by epoch</h2>\n", legend(data.unlearning),
                                                 "<div class=\"grid\">", out, "</div>\n");
    std::string training;
    for (std::size_t i = 0; i < data.training.size(); ++i)
        training += figure(loss_curve({data.training[i]}, grey), cat("training", i),
                           cat("Training loss: ", escaped(data.training[i].label)), "");
    if (!training.empty()) training = cat("<h2>Before unlearning</h2>\n<div class=\"grid\">", training, "</div>\n");
    return out.empty() && training.empty() ? "" : cat("<section id=\"curves\">", curves, training, "</section>\n");
}

std::string alpha_figures(const ReportData& data) {
    std::string out = figure(alpha_curve(data, "forget_quality", "forget quality", true), "alpha-quality",
                             "Forget quality by α", "α = 0 is the epoch itself; the dashed line is 0.05.");
    out += figure(alpha_curve(data, "model_utility", "model utility", false), "alpha-utility", "Model utility by α",
                  "What the same α costs.");
    const bool extrapolated = std::any_of(data.unlearning.begin(), data.unlearning.end(),
                                          [](const RunRecord& run) { return !run.extrapolations.empty(); });
    if (!extrapolated || out.empty()) return "";
    return cat("<section id=\"alpha\"><h2>How far to extrapolate</h2>\n", legend(data.unlearning),
               "<div class=\"grid\">", out, "</div></section>\n");
}

}  // namespace uipe::unlearn
