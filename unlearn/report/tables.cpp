// The report's tables: every point with its control, and the one question they are there to answer.
#include <algorithm>
#include <functional>
#include <sstream>

#include "tensor/base/error.h"
#include "unlearn/report/html.h"
#include "unlearn/report/parts.h"
#include "unlearn/report/plot.h"

namespace uipe::unlearn {
namespace {

constexpr int columns = 8;

std::string swatch(std::size_t index) {
    return cat("<span class=\"swatch\" style=\"background:", plot_color(static_cast<int>(index)), "\"></span>");
}

std::string forget_quality_cell(const EvaluationRecord& evaluation) {
    const auto value = evaluation.metric("forget_quality");
    const bool passes = value && *value > forget_quality_threshold;
    return cat(passes ? "<td class=\"number passes\">" : "<td class=\"number\">", p_value(value), "</td>");
}

std::string truth_ratio_cell(const EvaluationRecord& evaluation, bool unlearned, const ReportData& data) {
    const auto value = evaluation.metric("forget_truth_ratio_median");
    const auto limit = data.retain ? data.retain->metric("forget_truth_ratio_median") : std::nullopt;
    const bool over = unlearned && value && limit && *value > *limit;
    return cat("<td class=\"number\">", decimal(value), over ? "<span class=\"over\">&#8239;↑</span>" : "", "</td>");
}

std::string row(const std::string& css, const std::string& name, const std::string& epoch, std::optional<double> alpha,
                const EvaluationRecord& evaluation, const ReportData& data) {
    const std::optional<double> factor = alpha ? std::optional(1 + *alpha) : std::nullopt;
    const auto number = [](const std::string& text) { return cat("<td class=\"number\">", text, "</td>"); };
    return cat("<tr class=\"", css, "\"><td>", name, "</td>", number(epoch), number(alpha ? decimal(alpha, 2) : ""),
               number(factor ? decimal(factor, 2) : ""), forget_quality_cell(evaluation),
               number(decimal(evaluation.metric("model_utility"))),
               number(decimal(evaluation.metric("forget_Q_A_ROUGE"))),
               truth_ratio_cell(evaluation, css != "before", data), "</tr>\n");
}

std::string row(const std::string& css, const std::string& name, const EpochRecord& record, const ReportData& data) {
    return row(css, name, std::to_string(record.epoch), std::nullopt, record.evaluation, data);
}

/// The points extrapolated from one epoch, then what training on from there reached.
std::string extrapolation_rows(const RunRecord& run, int base, const ReportData& data) {
    std::string out;
    const EpochRecord* chosen = run.chosen();
    const EpochRecord* origin = run.at_epoch(base);
    if (origin != nullptr && origin != chosen) out += row("", "base of the points below", *origin, data);
    for (const ExtrapolationRecord& point : run.extrapolations)
        if (point.epoch == base) out += row("uipe", "UIPE", std::to_string(base), point.alpha, point.evaluation, data);
    const Control control = trained_on(run, base);
    if (control.best != nullptr) out += row("control", "control: trained on, best", *control.best, data);
    if (control.last != nullptr && control.last != control.best)
        out += row("control", "control: trained on, last", *control.last, data);
    if (control.last == nullptr)
        out += cat("<tr class=\"control\"><td colspan=\"", columns, "\">control: none; epoch ", base,
                   " is the run’s last, so training on was not tried</td></tr>\n");
    return out;
}

std::string run_rows(const RunRecord& run, std::size_t index, const ReportData& data) {
    std::ostringstream out;
    out << "<tbody>\n<tr class=\"group\"><th colspan=\"" << columns << "\" scope=\"rowgroup\">" << swatch(index)
        << escaped(run.label);
    if (!run.selection_reason.empty()) out << " <span class=\"reason\">" << escaped(run.selection_reason) << "</span>";
    out << "</th></tr>\n";
    if (const EpochRecord* start = run.at_epoch(0)) out << row("before", "before unlearning", *start, data);
    if (const EpochRecord* chosen = run.chosen())
        out << row("", run.selected ? "selected epoch" : "last epoch", *chosen, data);
    std::vector<int> bases;
    for (const ExtrapolationRecord& point : run.extrapolations)
        if (bases.empty() || bases.back() != point.epoch) bases.push_back(point.epoch);
    for (const int base : bases) out << extrapolation_rows(run, base, data);
    out << "</tbody>\n";
    return out.str();
}

std::string reference_rows(const ReportData& data) {
    std::string rows;
    if (data.retain)
        rows += row("reference", "retain model: never saw the forget set", "", std::nullopt, *data.retain, data);
    for (const RunRecord& run : data.references)
        rows += row("reference", escaped(run.label), "", std::nullopt, run.evaluation, data);
    return rows.empty() ? "" : cat("<tbody>\n", rows, "</tbody>\n");
}

/// One candidate of a comparison: where it is, and what it reached.
struct Candidate {
    std::string place;
    double quality = 0;
    double utility = 0;
};

void add_candidate(std::vector<Candidate>& to, const std::string& place, const EvaluationRecord& evaluation) {
    const auto quality = evaluation.metric("forget_quality"), utility = evaluation.metric("model_utility");
    if (quality && utility) to.push_back({place, *quality, *utility});
}

std::string candidate_cell(const Candidate* candidate) {
    if (candidate == nullptr) return "<td class=\"muted\">none</td>";
    return cat("<td class=\"pair\">", p_value(candidate->quality), " / ", decimal(candidate->utility),
               " <span class=\"muted\">", candidate->place, "</span></td>");
}

const Candidate* best(const std::vector<Candidate>& all, const std::function<bool(const Candidate&)>& admitted,
                      double Candidate::*value) {
    const Candidate* found = nullptr;
    for (const Candidate& candidate : all)
        if (admitted(candidate) && (found == nullptr || candidate.*value > found->*value)) found = &candidate;
    return found;
}

/// The candidates of the run itself after epoch 0, and those extrapolated from it.
std::pair<std::vector<Candidate>, std::vector<Candidate>> candidates_of(const RunRecord& run) {
    std::pair<std::vector<Candidate>, std::vector<Candidate>> out;
    for (const EpochRecord& record : run.epochs)
        if (record.epoch > 0) add_candidate(out.first, cat("epoch ", record.epoch), record.evaluation);
    for (const ExtrapolationRecord& point : run.extrapolations)
        add_candidate(out.second, cat("epoch ", point.epoch, ", α ", decimal(point.alpha, 2)), point.evaluation);
    return out;
}

std::string comparison_row(const std::string& question, const Candidate* trained, const Candidate* extrapolated,
                           double Candidate::*value) {
    std::string difference = "–";
    if (trained != nullptr && extrapolated != nullptr) {
        const double delta = extrapolated->*value - trained->*value;
        difference = std::abs(delta) < 5e-4 ? "0.000" : cat(delta < 0 ? "−" : "+", decimal(std::abs(delta)));
    }
    return cat("<tr><td>", question, "</td>", candidate_cell(trained), candidate_cell(extrapolated),
               "<td class=\"number\">", difference, "</td></tr>\n");
}

}  // namespace

Control trained_on(const RunRecord& run, int epoch) {
    Control control;
    for (const EpochRecord& record : run.epochs) {
        if (record.epoch <= epoch) continue;
        control.last = &record;
        const auto quality = record.evaluation.metric("forget_quality");
        if (quality && (control.best == nullptr || *quality > *control.best->evaluation.metric("forget_quality")))
            control.best = &record;
    }
    return control;
}

const ExtrapolationRecord* best_extrapolation(const RunRecord& run) {
    const ExtrapolationRecord* found = nullptr;
    double highest = -1;
    for (const ExtrapolationRecord& point : run.extrapolations) {
        const double quality = point.evaluation.metric("forget_quality").value_or(0);
        if (quality > highest) found = &point;
        highest = std::max(highest, quality);
    }
    return found;
}

std::string results_table(const ReportData& data) {
    std::string body = reference_rows(data);
    for (std::size_t i = 0; i < data.unlearning.size(); ++i) body += run_rows(data.unlearning[i], i, data);
    if (body.empty()) return "";
    return cat(
        "<section id=\"results\"><h2>Every point, with its control</h2>\n",
        "<div class=\"scroll\"><table>\n<thead><tr><th scope=\"col\">Model</th><th scope=\"col\">Epoch</th>",
        "<th scope=\"col\">α</th><th scope=\"col\">1&#8239;+&#8239;α</th><th scope=\"col\">Forget quality</th>",
        "<th scope=\"col\">Model utility</th><th scope=\"col\">Forget ROUGE</th>",
        "<th scope=\"col\">Truth ratio, median</th></tr></thead>\n", body, "</table></div>\n",
        "<p class=\"note\">UIPE’s weights are θ + α(θ − θ₀) = θ₀ + (1 + α)(θ − θ₀), with θ₀ before and θ after "
        "unlearning; some texts call the second factor α, so both are given. <b class=\"passes\">Bold</b>: forget "
        "quality above ",
        forget_quality_threshold,
        ". <span class=\"over\">↑</span>: truth ratio above the retain model’s, the sign of over-forgetting. A control "
        "is the same run, trained on past the epoch that was extrapolated.</p></section>\n");
}

std::string comparison_table(const ReportData& data) {
    std::ostringstream body;
    for (std::size_t i = 0; i < data.unlearning.size(); ++i) {
        const auto [trained, extrapolated] = candidates_of(data.unlearning[i]);
        if (extrapolated.empty()) continue;
        const auto passes = [](const Candidate& c) { return c.quality > forget_quality_threshold; };
        const auto any = [](const Candidate&) { return true; };
        body << "<tbody><tr class=\"group\"><th colspan=\"4\" scope=\"rowgroup\">" << swatch(i)
             << escaped(data.unlearning[i].label) << "</th></tr>\n"
             << comparison_row(cat("highest utility with forget quality above ", forget_quality_threshold),
                               best(trained, passes, &Candidate::utility),
                               best(extrapolated, passes, &Candidate::utility), &Candidate::utility)
             << comparison_row("highest forget quality", best(trained, any, &Candidate::quality),
                               best(extrapolated, any, &Candidate::quality), &Candidate::quality)
             << "</tbody>\n";
    }
    if (body.str().empty()) return "";
    return cat(
        "<section id=\"comparison\"><h2>Does extrapolating beat training on?</h2>\n",
        "<div class=\"scroll\"><table>\n<thead><tr><th scope=\"col\">Asked for</th>",
        "<th scope=\"col\">Training on</th><th scope=\"col\">UIPE</th>",
        "<th scope=\"col\">UIPE − training on</th></tr></thead>\n", body.str(), "</table></div>\n",
        "<p class=\"note\">Each cell is forget quality / model utility, and where it was reached: any epoch of the run "
        "on the left, any extrapolated point on the right. The last column is the difference in what was asked for. "
        "Both sides are chosen with the test set in hand.</p>"
        "</section>\n");
}

std::string settings_table(const ReportData& data) {
    std::vector<const RunRecord*> runs;
    for (const auto* list : {&data.training, &data.unlearning, &data.references})
        for (const RunRecord& run : *list)
            if (!run.config.empty()) runs.push_back(&run);
    if (runs.empty()) return "";
    std::vector<std::string> keys;
    std::ostringstream out;
    out << "<section id=\"settings\"><details><summary>Settings of every run</summary>\n<div class=\"scroll\"><table>\n"
        << "<thead><tr><th></th>";
    for (const RunRecord* run : runs) {
        out << "<th scope=\"col\">" << escaped(run->label) << "</th>";
        for (const auto& [key, value] : run->config)
            if (std::find(keys.begin(), keys.end(), key) == keys.end()) keys.push_back(key);
    }
    out << "</tr></thead>\n<tbody>\n";
    for (const std::string& key : keys) {
        out << "<tr><th scope=\"row\">" << escaped(key) << "</th>";
        for (const RunRecord* run : runs) out << "<td class=\"setting\">" << escaped(run->setting(key)) << "</td>";
        out << "</tr>\n";
    }
    out << "</tbody></table></div></details></section>\n";
    return out.str();
}

}  // namespace uipe::unlearn
