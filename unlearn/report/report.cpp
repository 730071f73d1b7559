#include "unlearn/report/report.h"

#include <algorithm>
#include <map>
#include <sstream>

#include "tensor/base/error.h"
#include "unlearn/report/html.h"
#include "unlearn/report/parts.h"

namespace uipe::unlearn {
namespace {

/// Runs of one label are told apart by their seeds, and those of one seed by their folders.
void tell_apart(std::vector<RunRecord>& runs) {
    const auto label_twins = [&runs](const std::string& label) {
        return std::count_if(runs.begin(), runs.end(), [&](const RunRecord& other) { return other.label == label; }) >
               1;
    };
    std::vector<std::string> labels;
    for (const RunRecord& run : runs) {
        const std::string seed = run.setting("seed");
        labels.push_back(label_twins(run.label) && !seed.empty() ? cat(run.label, " · seed ", seed) : run.label);
    }
    for (std::size_t i = 0; i < runs.size(); ++i) runs[i].label = labels[i];
    labels.clear();
    for (const RunRecord& run : runs)
        labels.push_back(label_twins(run.label) ? cat(run.label, " · ", run.folder.string()) : run.label);
    for (std::size_t i = 0; i < runs.size(); ++i) runs[i].label = labels[i];
}

ReportData read_data(const std::vector<fs::path>& folders, const fs::path& retain) {
    ReportData data;
    for (const fs::path& folder : folders) {
        RunRecord run = read_run(folder);
        const bool trains = run.setting("command") == "train";
        const bool evaluated = !run.epochs.empty() || !run.extrapolations.empty();
        require_input(
            evaluated || !run.steps.empty() || !run.evaluation.metrics.empty() || !run.setting("command").empty(),
            folder.string(), ": is no run of train, unlearn or eval; give run folders");
        if (trains && !run.steps.empty())
            data.training.push_back(std::move(run));
        else if (!evaluated && !run.evaluation.metrics.empty())
            data.references.push_back(std::move(run));
        else
            data.unlearning.push_back(std::move(run));
    }
    tell_apart(data.unlearning);
    tell_apart(data.training);
    tell_apart(data.references);
    if (!retain.empty()) data.retain = read_evaluation(retain);
    return data;
}

/// The different values that the runs give to a setting, in their order.
std::string values_of(const std::vector<RunRecord>& runs, const std::string& key) {
    std::vector<std::string> values;
    for (const RunRecord& run : runs) {
        const std::string value = run.setting(key);
        if (!value.empty() && std::find(values.begin(), values.end(), value) == values.end()) values.push_back(value);
    }
    std::string out;
    for (const std::string& value : values) out += (out.empty() ? "" : ", ") + value;
    return out;
}

std::size_t forget_questions(const ReportData& data) {
    for (const RunRecord& run : data.unlearning)
        for (const EpochRecord& record : run.epochs)
            if (const auto answers = read_answers(record.evaluation.path, "forget_Q_A_ROUGE"); !answers.empty())
                return answers.size();
    return 0;
}

/// Name and value, escaped when they are written.
std::vector<std::pair<std::string, std::string>> facts_of(const ReportData& data, const ReportOptions& options) {
    std::vector<std::pair<std::string, std::string>> facts = options.facts;
    const auto add = [&facts](const std::string& name, const std::string& value) {
        if (!value.empty()) facts.emplace_back(name, value);
    };
    std::string methods;
    double tokens = 0, seconds = 0;
    int epochs = 0;
    for (const RunRecord& run : data.unlearning) {
        methods += (methods.empty() ? "" : ", ") + run.label;
        if (!run.epochs.empty()) epochs = std::max(epochs, run.epochs.back().epoch);
    }
    for (const auto* runs : {&data.training, &data.unlearning})
        for (const RunRecord& run : *runs) {
            tokens += run.tokens;
            seconds += run.seconds;
        }
    add("Unlearned by", methods);
    add("Model", values_of(data.unlearning, "model"));
    add("Seed", values_of(data.unlearning, "seed"));
    if (const std::size_t rows = forget_questions(data)) add("Questions to forget", count(static_cast<double>(rows)));
    if (epochs > 0) add("Epochs", std::to_string(epochs));
    if (tokens > 0) add("Tokens trained on", count(tokens));
    if (seconds > 0) add("Time in training steps", duration(seconds));
    return facts;
}

std::string head(const ReportData& data, const ReportOptions& options) {
    std::ostringstream out;
    out << "<header><h1>" << escaped(options.title)
        << "</h1>\n<p class=\"lead\">A language model learned a set of questions "
        << "and answers, and was then made to forget some of them. Each method of unlearning is followed epoch by "
           "epoch; UIPE "
        << "goes on in a straight line along the change of weights that unlearning made, without another training "
           "step. The "
        << "page asks whether that forgets better, what it costs, and whether simply training on would have done the "
           "same."
        << "</p>\n<dl class=\"facts\">";
    for (const auto& [name, value] : facts_of(data, options))
        out << "<div><dt>" << escaped(name) << "</dt><dd>" << escaped(value) << "</dd></div>\n";
    out << "</dl></header>\n";
    return out.str();
}

std::string how_to_read() {
    const std::vector<std::pair<std::string, std::string>> entries = {
        {"Forget quality is a p-value.",
         "It tests whether the unlearned model’s truth ratios could come from the retain model, which never saw what "
         "is to be "
         "forgotten. Above 0.05 the two cannot be told apart. It is no grade: 0.3 is not worse than 0.7, and with few "
         "questions it moves in large steps."},
        {"Model utility is what was kept.",
         "The harmonic mean of nine scores on questions that should still be answered. Read it against the model "
         "before "
         "unlearning: a fall there is the price."},
        {"Too much forgetting shows.",
         "The truth ratio says how likely false answers are beside the true one. Unlearning raises it towards the "
         "retain "
         "model’s. Above that, the model avoids the truth, which gives the forgotten set away, and forget quality "
         "falls again."},
        {"Choosing α by forget quality is choosing on the test set.",
         "So is choosing the epoch. Every point is shown for that reason, and a control beside it: the same method, "
         "trained "
         "on. A difference of one step of the test, or one seed, decides nothing."}};
    std::string out = "<section id=\"reading\" class=\"reading\"><h2>How to read this</h2>\n<dl>";
    for (const auto& [term, meaning] : entries) out += cat("<div><dt>", term, "</dt><dd>", meaning, "</dd></div>\n");
    return out + "</dl></section>\n";
}

}  // namespace

void write_report(const std::vector<fs::path>& runs, const fs::path& html, const ReportOptions& options) {
    const ReportData data = read_data(runs, options.retain);
    std::ostringstream out;
    out << "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
        << "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        << "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>" << escaped(options.title)
        << "</title>\n<style>" << style_sheet() << "</style>\n</head>\n<body>\n<main>\n"
        << head(data, options) << tradeoff_figure(data) << comparison_table(data) << how_to_read()
        << results_table(data) << alpha_figures(data) << curve_figures(data) << sample_answers(data)
        << settings_table(data) << "</main>\n</body>\n</html>\n";
    write_file(html, out.str());
}

}  // namespace uipe::unlearn
