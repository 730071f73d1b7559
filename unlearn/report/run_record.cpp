#include "unlearn/report/run_record.h"

#include <algorithm>
#include <charconv>
#include <tuple>

#include "tensor/base/error.h"
#include "tensor/base/json.h"
#include "unlearn/objective.h"

namespace uipe::unlearn {
namespace {

constexpr const char* log_name = "TOFU_EVAL.json";
constexpr const char* summary_name = "TOFU_SUMMARY.json";
constexpr const char* median_name = "forget_truth_ratio_median";

/// The JSON object in a file, or an empty object where there is no file.
Json read_object(const fs::path& path) {
    if (!fs::exists(path)) return Json::object();
    Json json = read_json(path);
    require_input(json.is_object(), path.string(), ": a JSON object is needed, not ", json.type_name());
    return json;
}

/// A member that must be a number where it is there; null, which is how JSON writes a NaN, counts as absent.
std::optional<double> number(const Json& object, const std::string& key, const std::string& where) {
    const auto at = object.find(key);
    if (at == object.end() || at->is_null()) return std::nullopt;
    require_input(at->is_number(), where, ": \"", key, "\" must be a number, not ", at->type_name());
    return at->get<double>();
}

double needed_number(const Json& object, const std::string& key, const std::string& where) {
    const std::optional<double> value = number(object, key, where);
    require_input(value.has_value(), where, ": \"", key, "\" is missing");
    return *value;
}

int needed_epoch(const Json& object, const std::string& where) {
    const double value = needed_number(object, "epoch", where);
    require_input(value >= 0 && value <= 1e9 && value == static_cast<int>(value), where, ": \"epoch\" is ", value,
                  ", a whole number from 0 is needed");
    return static_cast<int>(value);
}

std::string text(const Json& object, const std::string& key, const std::string& where) {
    const auto at = object.find(key);
    if (at == object.end() || at->is_null()) return "";
    require_input(at->is_string(), where, ": \"", key, "\" must be text, not ", at->type_name());
    return at->get<std::string>();
}

/// The whole number that `name` is, or nothing: leftovers such as "3.tmp-77" are no epochs.
std::optional<int> whole_number(const std::string& name) {
    int value = 0;
    const auto [end, fault] = std::from_chars(name.data(), name.data() + name.size(), value);
    if (fault != std::errc{} || end != name.data() + name.size() || value < 0) return std::nullopt;
    return value;
}

/// `metric.value_by_index` of a log, or an empty object.
Json rows_of(const Json& log, const std::string& metric, const std::string& where) {
    const auto at = log.find(metric);
    if (at == log.end() || !at->is_object() || !at->contains("value_by_index")) return Json::object();
    const Json& rows = (*at)["value_by_index"];
    require_input(rows.is_object(), where, ": ", metric, ".value_by_index must be an object, not ", rows.type_name());
    for (const auto& [index, row] : rows.items())
        require_input(row.is_object(), where, ": ", metric, ".value_by_index.", index, " must be an object");
    return rows;
}

std::optional<double> median_truth_ratio(const Json& log, const std::string& where) {
    std::vector<double> scores;
    const Json rows = rows_of(log, "forget_truth_ratio", where);
    for (const auto& [index, row] : rows.items())
        if (const auto score = number(row, "score", where)) scores.push_back(*score);
    if (scores.empty()) return std::nullopt;
    std::sort(scores.begin(), scores.end());
    const std::size_t half = scores.size() / 2;
    return scores.size() % 2 == 1 ? scores[half] : (scores[half - 1] + scores[half]) / 2;
}

/// Adds what is not there yet from a summary (metric -> number) or a log (metric -> {agg_value, value_by_index}).
void add_metrics(EvaluationRecord& evaluation, const Json& json, const std::string& where) {
    require_input(json.is_object(), where, ": a JSON object is needed, not ", json.type_name());
    for (const auto& [key, value] : json.items()) {
        const std::optional<double> metric =
            value.is_object() ? number(value, "agg_value", cat(where, ": ", key)) : number(json, key, where);
        if (metric) evaluation.metrics.emplace(key, *metric);
    }
    if (const auto median = median_truth_ratio(json, where)) evaluation.metrics.emplace(median_name, *median);
}

std::string without_marks(const std::string& prompt) {
    const std::string begin = "[INST]", end = "[/INST]";
    const auto from = prompt.find(begin);
    const auto to = prompt.rfind(end);
    if (from == std::string::npos || to == std::string::npos || to < from) return prompt;
    const std::string inner = prompt.substr(from + begin.size(), to - from - begin.size());
    const auto first = inner.find_first_not_of(' ');
    return first == std::string::npos ? "" : inner.substr(first, inner.find_last_not_of(' ') - first + 1);
}

void read_config(RunRecord& run) {
    const Json config = read_object(run.folder / "config.json");
    for (const auto& [key, value] : config.items())
        run.config.emplace_back(key, value.is_string() ? value.get<std::string>() : value.dump());
    const std::string name = run.setting("name");
    const std::string method = run.setting("method");
    run.label = !name.empty() ? name : !method.empty() ? method_name(method) : run.folder.filename().string();
}

void read_steps(RunRecord& run) {
    const fs::path path = run.folder / "metrics.jsonl";
    if (!fs::exists(path)) return;
    for_each_row(path, [&](const Json& row, const std::string& place) {
        require_input(row.is_object(), place, ": a JSON object is needed, not ", row.type_name());
        const double step = needed_number(row, "step", place);
        if (const auto loss = number(row, "loss", place)) run.steps.push_back({step, *loss});
        const double tokens = number(row, "tokens", place).value_or(0);
        const double rate = number(row, "tok_per_s", place).value_or(0);
        run.tokens += tokens;
        if (rate > 0) run.seconds += tokens / rate;
    });
}

void read_epochs(RunRecord& run) {
    const fs::path folder = run.folder / "epochs";
    if (!fs::is_directory(folder)) return;
    for (const auto& entry : fs::directory_iterator(folder)) {
        const std::optional<int> epoch = whole_number(entry.path().filename().string());
        if (entry.is_directory() && epoch) run.epochs.push_back({*epoch, read_evaluation(entry.path())});
    }
    std::sort(run.epochs.begin(), run.epochs.end(), [](const auto& a, const auto& b) { return a.epoch < b.epoch; });
}

void read_extrapolations(RunRecord& run) {
    const fs::path folder = run.folder / "extrapolations";
    if (!fs::is_directory(folder)) return;
    for (const auto& entry : fs::directory_iterator(folder)) {
        const fs::path path = entry.path() / "extrapolation.json";
        if (entry.path().filename().string().find(".tmp-") != std::string::npos) continue;  // left by a killed process
        if (!fs::exists(path)) continue;  // without its factor a point cannot be placed
        const Json json = read_object(path);
        run.extrapolations.push_back({needed_epoch(json, path.string()), needed_number(json, "alpha", path.string()),
                                      read_evaluation(entry.path())});
    }
    std::sort(run.extrapolations.begin(), run.extrapolations.end(),
              [](const auto& a, const auto& b) { return std::tie(a.epoch, a.alpha) < std::tie(b.epoch, b.alpha); });
}

}  // namespace

std::optional<double> EvaluationRecord::metric(const std::string& name) const {
    const auto at = metrics.find(name);
    return at == metrics.end() ? std::nullopt : std::optional(at->second);
}

std::string RunRecord::setting(const std::string& key) const {
    for (const auto& [name, value] : config)
        if (name == key) return value;
    return "";
}

const EpochRecord* RunRecord::at_epoch(int epoch) const {
    for (const EpochRecord& record : epochs)
        if (record.epoch == epoch) return &record;
    return nullptr;
}

const EpochRecord* RunRecord::chosen() const {
    if (selected)
        if (const EpochRecord* record = at_epoch(*selected)) return record;
    return epochs.empty() || epochs.back().epoch == 0 ? nullptr : &epochs.back();
}

EvaluationRecord read_evaluation(const fs::path& path) {
    EvaluationRecord evaluation{path, {}};
    if (!fs::is_directory(path)) {
        add_metrics(evaluation, read_json(path), path.string());
        return evaluation;
    }
    for (const char* name : {summary_name, log_name}) {
        add_metrics(evaluation, read_object(path / name), (path / name).string());
        if (evaluation.metrics.contains(median_name)) break;  // spares reading the long log
    }
    return evaluation;
}

RunRecord read_run(const fs::path& folder) {
    require_input(fs::is_directory(folder), folder.string(), ": no such run folder");
    RunRecord run;
    run.folder = folder.has_filename() ? folder : folder.parent_path();  // "runs/ga/" is named "ga"
    read_config(run);
    run.evaluation = read_evaluation(run.folder);
    read_steps(run);
    read_epochs(run);
    read_extrapolations(run);
    const fs::path selection_path = run.folder / "selection.json";
    if (fs::exists(selection_path)) {
        const Json selection = read_object(selection_path);
        run.selected = needed_epoch(selection, selection_path.string());
        run.selection_reason = text(selection, "reason", selection_path.string());
    }
    return run;
}

std::map<int, Answer> read_answers(const fs::path& folder, const std::string& metric) {
    const std::string where = (folder / log_name).string();
    std::map<int, Answer> answers;
    const Json log = read_object(where);
    const Json rows = rows_of(log, metric, where);
    for (const auto& [index, row] : rows.items()) {
        const std::optional<int> i = whole_number(index);
        require_input(i.has_value(), where, ": ", metric, ".value_by_index has the key \"", index,
                      "\", a number is needed");
        const std::string place = cat(where, ": ", metric, " row ", index);
        answers[*i] = {without_marks(text(row, "input", place)), text(row, "ground_truth", place),
                       text(row, "generation", place)};
    }
    return answers;
}

std::string method_name(const std::string& method) {
    for (const Objective& o : objectives())
        if (o.unlearns && o.name == method) return o.title;
    return method;
}

}  // namespace uipe::unlearn
