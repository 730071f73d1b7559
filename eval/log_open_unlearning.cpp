// TOFU_EVAL.json: sorted metric names, each {"agg_value": x, "value_by_index": {"0": {…}, …}}; an attack has two such
// under "forget" and "holdout". TOFU_SUMMARY.json: metric name to aggregate.
#include "eval/auc.h"
#include "eval/log_json.h"
#include "eval/row_metrics.h"
#include "eval/score_json.h"
#include "tensor/base/error.h"

namespace uipe::eval {
namespace {

struct SetName {
    std::string prefix, truth_ratio;
    SetScore EvalLog::*set;
    bool authors;
};
const SetName set_names[] = {{"forget", "forget_truth_ratio", &EvalLog::forget, true},
                             {"retain", "retain_Truth_Ratio", &EvalLog::retain, true},
                             {"ra", "ra_Truth_Ratio", &EvalLog::real_authors, false},
                             {"wf", "wf_Truth_Ratio", &EvalLog::world_facts, false}};
constexpr const char* column_names[] = {"exact_memorization", "extraction_strength"};

/// InputError for a loss or a probability that no model has, but for rounding.
AnswerScore answer_of(double loss, double probability, const std::string& place) {
    require_input(loss >= -1e-3, place, ": avg_loss is ", loss, "; no mean loss is below 0");
    require_input(probability >= 0 && probability <= 1.001, place, ": prob is ", probability,
                  "; it is between 0 and 1");
    return {loss, 0, probability};
}

AnswerScore read_answer(const LogValue& entry) {
    return answer_of(entry["avg_loss"].number(), entry["prob"].number(), entry.place());
}

std::vector<AnswerScore> read_perturbed(const LogValue& entry) {
    const auto losses = entry["avg_loss"].numbers(), probabilities = entry["prob"].numbers();
    require_input(!losses.empty() && losses.size() == probabilities.size(), entry.place(), " has ", losses.size(),
                  " losses and ", probabilities.size(), " probabilities; both need one for each perturbed answer");
    std::vector<AnswerScore> answers;
    for (std::size_t i = 0; i < losses.size(); ++i)
        answers.push_back(answer_of(losses[i], probabilities[i], entry.place()));
    return answers;
}

constexpr std::pair<const char*, double Rouge::*> rouge_names[] = {{"rouge1_recall", &Rouge::rouge1_recall},
                                                                   {"rougeL_f1", &Rouge::rougeL_f1},
                                                                   {"rougeL_recall", &Rouge::rougeL_recall}};

TextScore read_text(const LogValue& entry) {
    TextScore out{entry["ground_truth"].text(), {}};
    for (const auto& [name, member] : rouge_names) out.rouge.*member = entry[name].number();
    return out;
}

/// Of _Q_A_PERT_ROUGE: each key holds a list.
void read_texts(const LogValue& entry, std::vector<AnswerScore>& answers) {
    const auto list = [&](const char* name) {
        auto values = entry[name].list();
        require_input(values.size() == answers.size(), entry.place(), "/", name, " has ", values.size(),
                      " entries; its row has ", answers.size(), " perturbed answers");
        return values;
    };
    const auto texts = list("ground_truth");
    for (std::size_t i = 0; i < answers.size(); ++i) answers[i].text = {texts[i].text(), {}};
    for (const auto& [name, member] : rouge_names) {
        const auto values = list(name);
        for (std::size_t i = 0; i < answers.size(); ++i) answers[i].text->rouge.*member = values[i].number();
    }
}

/// A set needs _Q_A_Prob and _Q_A_ROUGE; without _Q_A_PARA_Prob or _Q_A_PERT_Prob its rows lack those answers, and
/// without _Q_A_PARA_ROUGE or _Q_A_PERT_ROUGE their texts.
SetScore read_set(const LogValue& log, const SetName& set) {
    const std::string prob = set.prefix + "_Q_A_Prob", rouge = set.prefix + "_Q_A_ROUGE",
                      para = set.prefix + "_Q_A_PARA_Prob", pert = set.prefix + "_Q_A_PERT_Prob",
                      para_rouge = set.prefix + "_Q_A_PARA_ROUGE", pert_rouge = set.prefix + "_Q_A_PERT_ROUGE";
    if (!log.has(prob) && !log.has(rouge) && !log.has(para) && !log.has(pert)) return {};
    const auto answers = log[prob]["value_by_index"].rows();
    const std::size_t n = answers.size();
    const auto texts = log[rouge]["value_by_index"].rows(n);
    SetScore out;
    for (std::size_t i = 0; i < n; ++i)
        out.rows.push_back({read_answer(answers[i]),
                            {},
                            {},
                            texts[i]["input"].text(),
                            texts[i]["ground_truth"].text(),
                            texts[i]["generation"].text(),
                            texts[i]["rouge1_recall"].number(),
                            texts[i]["rougeL_recall"].number(),
                            texts[i]["rougeL_f1"].number()});
    if (set.authors && log.has(para)) {
        const auto paraphrased = log[para]["value_by_index"].rows(n);
        for (std::size_t i = 0; i < n; ++i) out.rows[i].paraphrase = read_answer(paraphrased[i]);
        if (log.has(para_rouge)) {
            const auto said = log[para_rouge]["value_by_index"].rows(n);
            for (std::size_t i = 0; i < n; ++i) out.rows[i].paraphrase->text = read_text(said[i]);
        }
    }
    if (log.has(pert)) {
        const auto perturbed = log[pert]["value_by_index"].rows(n);
        for (std::size_t i = 0; i < n; ++i) out.rows[i].perturbed = read_perturbed(perturbed[i]);
        if (log.has(pert_rouge)) {
            const auto said = log[pert_rouge]["value_by_index"].rows(n);
            for (std::size_t i = 0; i < n; ++i) read_texts(said[i], out.rows[i].perturbed);
        }
    }
    return out;
}

std::vector<double> read_scores(const LogValue& metric) {
    std::vector<double> scores;
    for (const LogValue& row : metric["value_by_index"].rows()) scores.push_back(row["score"].number());
    require_input(!scores.empty(), metric.place(), " has no rows; the log is incomplete, evaluate again");
    return scores;
}

Json scores_json(const std::vector<double>& scores) {
    return by_index(scores, [](double score) { return Json{{"score", score}}; });
}

Json attack_json(const Attack& attack) {
    const auto half = [](const std::vector<double>& scores) {
        double sum = 0;
        for (const double score : scores) sum += score;
        return Json{{"agg_value", sum / static_cast<double>(scores.size())}, {"value_by_index", scores_json(scores)}};
    };
    const double auc = attack_auc(attack.forget, attack.holdout);
    return Json{{"forget", half(attack.forget)}, {"holdout", half(attack.holdout)}, {"auc", auc}, {"agg_value", auc}};
}

Json answer_json(const AnswerScore& answer) {
    return Json{{"prob", answer.probability()}, {"avg_loss", answer.avg_loss}};
}

Json perturbed_json(const RowScore& row) {
    Json probabilities = Json::array(), losses = Json::array();
    for (const auto& answer : row.perturbed) {
        probabilities.push_back(answer.probability());
        losses.push_back(answer.avg_loss);
    }
    return Json{{"prob", probabilities}, {"avg_loss", losses}};
}

Json rouge_json(const RowScore& row, const TextScore& score) {
    return Json{{"rouge1_recall", score.rouge.rouge1_recall},
                {"rougeL_f1", score.rouge.rougeL_f1},
                {"rougeL_recall", score.rouge.rougeL_recall},
                {"input", row.prompt},
                {"ground_truth", score.text},
                {"generation", row.generation}};
}

Json perturbed_rouge_json(const RowScore& row) {
    Json out = Json::object();
    for (const AnswerScore& answer : row.perturbed) {
        const Json one = rouge_json(row, *answer.text);
        for (const auto& [key, value] : one.items()) out[key].push_back(value);
    }
    return out;
}

using Metrics = std::map<std::string, Json>;

/// The rows of those metrics of a set that have an aggregate, which are those that its rows allow.
void add_set(Metrics& metrics, const SetScore& set, const SetName& name) {
    const auto add = [&](const std::string& metric, const auto& of) {
        const auto at = metrics.find(metric);
        if (at != metrics.end()) at->second["value_by_index"] = by_index(set.rows, of);
    };
    add(name.prefix + "_Q_A_Prob", [](const RowScore& row) { return answer_json(row.answer); });
    add(name.prefix + "_Q_A_ROUGE", [](const RowScore& row) {
        return rouge_json(row, {row.ground_truth, {row.rouge1_recall, row.rougeL_recall, row.rougeL_f1}});
    });
    add(name.prefix + "_Q_A_PARA_ROUGE", [](const RowScore& row) { return rouge_json(row, *row.paraphrase->text); });
    add(name.prefix + "_Q_A_PERT_ROUGE", perturbed_rouge_json);
    add(name.prefix + "_Q_A_PARA_Prob", [](const RowScore& row) { return answer_json(*row.paraphrase); });
    add(name.prefix + "_Q_A_PERT_Prob", perturbed_json);
    add(name.prefix + "_Q_A_Prob_normalised", [](const RowScore& row) {
        return Json{{"prob", normalised_probability(row, Protocol::open_unlearning)}};
    });
    add(name.truth_ratio, [](const RowScore& row) {
        return Json{{"score", truth_ratio(row, TruthRatio::geometric, Protocol::open_unlearning)}};
    });
}

bool in_summary(const std::string& name) {
    for (const char* wanted : {"exact_memorization", "extraction_strength", "forget_Q_A_Prob", "forget_Q_A_ROUGE",
                               "forget_quality", "forget_truth_ratio", "model_utility", "privleak"})
        if (name == wanted) return true;
    return name.starts_with("mia_");
}

}  // namespace

EvalLog read_open_unlearning_log(const LogValue& log) {
    EvalLog out;
    out.format = Protocol::open_unlearning;
    for (const SetName& set : set_names) out.*set.set = read_set(log, set);
    for (const char* name : column_names)
        if (log.has(name)) out.columns[name] = read_scores(log[name]);
    for (const auto& [name, json] : log.json().items()) {
        const LogValue metric = log[name];
        if (name.starts_with("mia_"))
            out.attacks[name] = {read_scores(metric["forget"]), read_scores(metric["holdout"])};
        const LogValue aggregate = metric["agg_value"];  // null where it could not be computed, as without a retain log
        if (!aggregate.json().is_null()) out.aggregates[name] = aggregate.number();
    }
    return out;
}

void write_open_unlearning_log(const fs::path& folder, const EvalLog& log, const EvalLog* retain) {
    Scores scores = score(log, retain, {.protocol = log.format});
    Metrics metrics;
    for (const auto& [name, value] : scores) metrics[name]["agg_value"] = value;
    for (const SetName& set : set_names) add_set(metrics, log.*set.set, set);
    for (const auto& [name, values] : log.columns) metrics[name]["value_by_index"] = scores_json(values);
    for (const auto& [name, attack] : log.attacks) metrics[name] = attack_json(attack);
    for (const auto& [name, value] : log.aggregates)
        if (scores.emplace(name, value).second) metrics[name]["agg_value"] = value;
    std::erase_if(scores, [](const auto& item) { return !in_summary(item.first); });
    fs::create_directories(folder);
    write_json(folder / "TOFU_EVAL.json", Json(metrics));
    write_json(folder / "TOFU_SUMMARY.json", to_json(scores));
}

}  // namespace uipe::eval
