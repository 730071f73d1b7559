// Sample answers: the same questions before unlearning, after it, and after extrapolation.
#include <sstream>

#include "tensor/base/error.h"
#include "unlearn/report/html.h"
#include "unlearn/report/parts.h"
#include "unlearn/report/plot.h"

namespace uipe::unlearn {
namespace {

constexpr std::size_t forget_samples = 5;
constexpr std::size_t retain_samples = 2;
constexpr std::size_t longest_answer = 600;  // bytes shown; a collapsed model can repeat itself for pages

/// A model at one stage, with its answers to the questions of one set.
struct Stage {
    std::string name;
    const Evaluation* evaluation;
};

std::vector<Stage> stages_of(const RunRecord& run) {
    std::vector<Stage> stages;
    if (const EpochRecord* start = run.at_epoch(0)) stages.push_back({"before", &start->evaluation});
    if (const EpochRecord* chosen = run.chosen())
        stages.push_back({cat("after ", run.label, ", epoch ", chosen->epoch), &chosen->evaluation});
    if (const ExtrapolationRecord* point = best_extrapolation(run))
        stages.push_back(
            {cat("after UIPE, epoch ", point->epoch, ", α ", decimal(point->alpha, 2)), &point->evaluation});
    return stages;
}

/// Answers are UTF-8: a cut goes before the character it would split.
std::string shortened(const std::string& text) {
    if (text.size() <= longest_answer) return text;
    std::size_t end = longest_answer;
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
    return text.substr(0, end) + " […]";
}

std::string shown(const std::string& text) {
    if (text.find_first_not_of(" \t\r\n") == std::string::npos) return "<span class=\"muted\">(nothing)</span>";
    return escaped(shortened(text));
}

/// `wanted` of the rows, evenly spread over the set: neighbours in TOFU are questions about the same author.
std::vector<int> spread(const std::map<int, Answer>& answers, std::size_t wanted) {
    std::vector<int> all, rows;
    for (const auto& [index, answer] : answers) all.push_back(index);
    const std::size_t n = std::min(wanted, all.size());
    for (std::size_t i = 0; i < n; ++i) rows.push_back(all[i * all.size() / n]);
    return rows;
}

/// The cards of one set of questions.
std::string cards(const std::vector<Stage>& stages, const std::string& metric, std::size_t wanted,
                  const std::string& badge) {
    std::vector<std::map<int, Answer>> answers;
    for (const Stage& stage : stages) answers.push_back(read_answers(stage.evaluation->path, metric));
    std::size_t asked = 0;  // the first stage that has answers says which questions are shown
    while (asked < answers.size() && answers[asked].empty()) ++asked;
    if (asked == answers.size()) return "";
    std::ostringstream out;
    for (const int index : spread(answers[asked], wanted)) {
        const Answer& first = answers[asked].at(index);
        out << "<article class=\"card\"><h4><span class=\"badge " << badge << "\">" << badge << "</span> "
            << shown(first.question) << "</h4>\n<dl><dt>truth</dt><dd>" << shown(first.truth) << "</dd>\n";
        for (std::size_t i = 0; i < stages.size(); ++i)
            if (const auto at = answers[i].find(index); at != answers[i].end())
                out << "<dt>" << escaped(stages[i].name) << "</dt><dd>" << shown(at->second.generation) << "</dd>\n";
        out << "</dl></article>\n";
    }
    return out.str();
}

}  // namespace

std::string sample_answers(const ReportData& data) {
    std::string out;
    for (std::size_t i = 0; i < data.unlearning.size(); ++i) {
        const RunRecord& run = data.unlearning[i];
        const std::vector<Stage> stages = stages_of(run);
        const std::string all = cards(stages, "forget_Q_A_ROUGE", forget_samples, "forget") +
                                cards(stages, "retain_Q_A_ROUGE", retain_samples, "retain");
        if (all.empty()) continue;
        out += cat("<details", out.empty() ? " open" : "",
                   "><summary><span class=\"swatch\" style=\"background:", plot_color(static_cast<int>(i)),
                   "\"></span>", escaped(run.label), "</summary>\n<div class=\"cards\">", all, "</div></details>\n");
    }
    if (out.empty()) return "";
    return cat("<section id=\"answers\"><h2>What the models say</h2>\n", out, "</section>\n");
}

}  // namespace uipe::unlearn
