// eval_log_aggregated.json: for each of four sets, one column a quantity, {"0": value, "1": value, …}. A variant (of
// the NPO authors) has arrays for columns; it is read too.
#include <algorithm>
#include <limits>

#include "eval/log_json.h"
#include "eval/rouge.h"
#include "eval/row_metrics.h"
#include "tensor/base/error.h"

namespace uipe::eval {
namespace {

struct SetFile {
    const char* name;
    SetScore EvalLog::*set;
    bool authors;
};
constexpr SetFile set_files[] = {{"eval_log.json", &EvalLog::retain, true},
                                 {"eval_real_author_wo_options.json", &EvalLog::real_authors, false},
                                 {"eval_real_world_wo_options.json", &EvalLog::world_facts, false},
                                 {"eval_log_forget.json", &EvalLog::forget, true}};

std::vector<AnswerScore> read_perturbed(const LogValue& losses, const LogValue& tokens) {
    const auto values = losses.numbers();
    const auto counts = tokens.list();
    require_input(!values.empty() && values.size() == counts.size(), losses.place(), " has ", values.size(),
                  " losses, ", tokens.place(), " has ", counts.size(), "; both need one for each perturbed answer");
    std::vector<AnswerScore> answers;
    for (std::size_t i = 0; i < values.size(); ++i) answers.push_back({values[i], counts[i].count(), {}});
    return answers;
}

void read_texts(const LogValue& texts, RowScore& row) {
    const auto parts = texts.list();
    require_input(parts.size() == 3, texts.place(), " has ", parts.size(),
                  " texts, 3 are needed: prompt, generation, ground truth");
    row.prompt = parts[0].text();
    row.generation = parts[1].text();
    row.ground_truth = parts[2].text();
    row.rougeL_f1 = rouge(row.ground_truth, row.generation).rougeL_f1;
}

SetScore read_set(const LogValue& set) {
    const auto losses = set["avg_gt_loss"].rows();
    const std::size_t n = losses.size();
    const auto column = [&](const char* name) { return set[name].rows(n); };
    const auto tokens = column("num_token_gt"), texts = column("generated_text");
    const auto rouge1 = column("rouge1_recall"), rougeL = column("rougeL_recall");
    const auto paraphrased = column("avg_paraphrased_loss"), paraphrased_tokens = column("num_token_paraphrased");
    const auto perturbed = column("average_perturb_loss"), perturbed_tokens = column("num_token_perturb");
    SetScore out;
    for (std::size_t i = 0; i < n; ++i) {
        RowScore row;
        row.answer = {losses[i].number(), tokens[i].count(), {}};
        row.paraphrase = {paraphrased[i].number(), paraphrased_tokens[i].count(), {}};
        row.perturbed = read_perturbed(perturbed[i], perturbed_tokens[i]);
        read_texts(texts[i], row);
        row.rouge1_recall = rouge1[i].number();
        row.rougeL_recall = rougeL[i].number();
        out.rows.push_back(std::move(row));
    }
    return out;
}

double total_loss(const AnswerScore& answer) { return answer.avg_loss * static_cast<double>(answer.num_tokens); }

/// JSON has no infinity, which a model far from the right answer reaches.
double finite(double value) { return std::min(value, std::numeric_limits<double>::max()); }

/// [of(answer), …] over the perturbed answers of a row.
template <class Of>
Json each_perturbed(const RowScore& row, const Of& of) {
    Json out = Json::array();
    for (const auto& answer : row.perturbed) out.push_back(of(answer));
    return out;
}

void require_writable(const RowScore& row, std::size_t i, const char* set, const EvalLog& log) {
    const auto counted = [](const AnswerScore& answer) { return answer.num_tokens > 0; };
    const bool all_counted = counted(row.answer) && (!row.paraphrase || counted(*row.paraphrase)) &&
                             std::all_of(row.perturbed.begin(), row.perturbed.end(), counted);
    require_input(all_counted, log.source, ": row ", i, " of ", set,
                  " has no token counts, which the tofu format needs; write the open-unlearning format");
    require_input(!row.perturbed.empty(), log.source, ": row ", i, " of ", set,
                  " has no perturbed answers, which the tofu format needs; evaluate on a _perturbed set");
}

Json set_json(const SetScore& set, bool authors) {
    Json out;
    const auto column = [&](const char* name, const auto& of) { out[name] = by_index(set.rows, of); };
    const auto right = [](const RowScore& row) { return row.paraphrase.value_or(row.answer); };
    const auto count = [](const AnswerScore& answer) { return answer.num_tokens; };
    column("avg_gt_loss", [](const RowScore& row) { return row.answer.avg_loss; });
    column("gt_loss", [](const RowScore& row) { return total_loss(row.answer); });
    column("num_token_gt", [](const RowScore& row) { return row.answer.num_tokens; });
    column("generated_text", [](const RowScore& row) {
        return Json::array({row.prompt, row.generation, row.ground_truth});
    });
    column("rouge1_recall", [](const RowScore& row) { return row.rouge1_recall; });
    column("rougeL_recall", [](const RowScore& row) { return row.rougeL_recall; });
    column("average_perturb_loss", [](const RowScore& row) {
        return each_perturbed(row, [](const AnswerScore& answer) { return answer.avg_loss; });
    });
    column("avg_paraphrased_loss", [&](const RowScore& row) { return right(row).avg_loss; });
    column("truth_ratio",
           [](const RowScore& row) { return finite(truth_ratio(row, TruthRatio::geometric, Protocol::tofu)); });
    column("paraphrased_loss", [&](const RowScore& row) { return total_loss(right(row)); });
    column("perturb_loss", [](const RowScore& row) { return each_perturbed(row, total_loss); });
    column("num_token_paraphrased", [&](const RowScore& row) { return right(row).num_tokens; });
    column("num_token_perturb", [&](const RowScore& row) { return each_perturbed(row, count); });
    if (!authors) {
        column("normalized_gt_loss",
               [](const RowScore& row) { return finite(-std::log(normalised_probability(row, Protocol::tofu))); });
    }
    return out;
}

}  // namespace

bool is_tofu_log(const Json& json) {
    return std::any_of(std::begin(set_files), std::end(set_files),
                       [&](const SetFile& set) { return json.is_object() && json.contains(set.name); });
}

EvalLog read_tofu_log(const LogValue& log) {
    EvalLog out;
    out.format = Protocol::tofu;
    for (const auto& [name, set, authors] : set_files)
        if (log.has(name)) out.*set = read_set(log[name]);
    return out;
}

void write_tofu_log(const fs::path& file, const EvalLog& log) {
    Json out = Json::object();
    for (const auto& [name, set, authors] : set_files) {
        const auto& rows = (log.*set).rows;
        if (rows.empty()) continue;
        for (std::size_t i = 0; i < rows.size(); ++i) require_writable(rows[i], i, name, log);
        out[name] = set_json(log.*set, authors);
    }
    write_json(file, out);
}

}  // namespace uipe::eval
