#include "eval/score.h"

#include <algorithm>
#include <span>

#include "eval/auc.h"
#include "eval/ks.h"
#include "eval/rouge.h"
#include "tensor/base/error.h"

namespace uipe::eval {
namespace {

using Rows = std::span<const RowScore>;

Rows scored_rows(const SetScore& set, Protocol protocol) {
    const Rows rows = set.rows;
    return rows.first(rows_judged(protocol, rows.size()));
}

template <class Values, class Of>
double mean_of(const Values& values, const Of& of) {
    double sum = 0;
    for (const auto& value : values) sum += of(value);
    return sum / static_cast<double>(std::size(values));
}

double mean_probability(const std::vector<AnswerScore>& answers) {
    return mean_of(answers, [](const AnswerScore& answer) { return answer.probability(); });
}

bool has_text(const AnswerScore& answer) { return answer.text.has_value(); }

/// 0 when any value is 0.
double harmonic_mean(const std::vector<double>& values) {
    double sum = 0;
    for (const double value : values) sum += 1 / value;
    return static_cast<double>(values.size()) / sum;
}

/// What one set contributes under its prefix.
class SetMetrics {
public:
    SetMetrics(Scores& scores, const SetScore& set, const ScoreOptions& options, std::string prefix)
        : scores_(scores), rows_(scored_rows(set, options.protocol)), options_(options), prefix_(std::move(prefix)) {}

    bool empty() const { return rows_.empty(); }
    bool all_perturbed() const {
        return std::none_of(rows_.begin(), rows_.end(), [](const RowScore& row) { return row.perturbed.empty(); });
    }
    bool all_paraphrased() const {
        return std::all_of(rows_.begin(), rows_.end(), [](const RowScore& row) { return row.paraphrase.has_value(); });
    }

    void add_probability_and_rouge() const {
        add("_Q_A_Prob", [](const RowScore& row) { return row.answer.probability(); });
        add("_Q_A_ROUGE", [&](const RowScore& row) { return recall(row, row.ground_truth, row.rougeL_recall); });
        if (all_perturbed()) add("_Q_A_PERT_Prob", [](const RowScore& row) { return mean_probability(row.perturbed); });
    }
    void add_paraphrase() const {
        if (all_paraphrased()) add("_Q_A_PARA_Prob", [](const RowScore& row) { return row.paraphrase->probability(); });
    }
    void add_rouge_of_others() const {
        const auto of = [&](const RowScore& row, const AnswerScore& answer) {
            return recall(row, answer.text->text, answer.text->rouge.rougeL_recall);
        };
        const auto paraphrased = [](const RowScore& row) { return row.paraphrase && has_text(*row.paraphrase); };
        const auto perturbed = [](const RowScore& row) {
            return !row.perturbed.empty() && std::all_of(row.perturbed.begin(), row.perturbed.end(), has_text);
        };
        if (std::all_of(rows_.begin(), rows_.end(), paraphrased))
            add("_Q_A_PARA_ROUGE", [&](const RowScore& row) { return of(row, *row.paraphrase); });
        if (std::all_of(rows_.begin(), rows_.end(), perturbed))
            add("_Q_A_PERT_ROUGE", [&](const RowScore& row) {
                return mean_of(row.perturbed, [&](const AnswerScore& answer) { return of(row, answer); });
            });
    }
    void add_normalised() const {
        if (!all_perturbed()) return;
        add("_Q_A_Prob_normalised",
            [&](const RowScore& row) { return normalised_probability(row, options_.protocol); });
    }
    /// `better` turns a row's truth ratio into a value in [0, 1], larger for the better model.
    template <class Better>
    void add_truth_ratio(const char* name, const Better& better) const {
        add(name, [&](const RowScore& row) {
            const double ratio = truth_ratio(row, options_.truth_ratio, options_.protocol);
            return options_.truth_ratio == TruthRatio::prob_mean ? ratio : better(ratio);
        });
    }

private:
    double recall(const RowScore& row, const std::string& reference, double stored) const {
        return options_.recompute_rouge ? rouge(reference, row.generation).rougeL_recall : stored;
    }

    template <class Of>
    void add(const char* name, const Of& of) const {
        scores_[prefix_ + name] = mean_of(rows_, of);
    }

    Scores& scores_;
    Rows rows_;
    const ScoreOptions& options_;
    std::string prefix_;
};

double true_better(double ratio) { return std::max(0.0, 1 - ratio); }

void add_author_set(Scores& scores, const SetScore& set, const ScoreOptions& options, const char* prefix, bool forget) {
    const SetMetrics metrics(scores, set, options, prefix);
    if (metrics.empty()) return;
    metrics.add_probability_and_rouge();
    metrics.add_paraphrase();
    metrics.add_rouge_of_others();
    if (!metrics.all_paraphrased() || !metrics.all_perturbed()) return;
    const double eps = options.protocol == Protocol::tofu ? 0 : 1e-10;
    const auto closer_to_1_better = [eps](double ratio) { return std::min(ratio, 1 / (ratio + eps)); };
    if (forget) {
        metrics.add_truth_ratio("_truth_ratio", closer_to_1_better);
    } else {
        metrics.add_truth_ratio("_Truth_Ratio", true_better);
    }
}

void add_world_set(Scores& scores, const SetScore& set, const ScoreOptions& options, const char* prefix) {
    const SetMetrics metrics(scores, set, options, prefix);
    if (metrics.empty()) return;
    metrics.add_probability_and_rouge();
    metrics.add_normalised();
    if (metrics.all_perturbed()) metrics.add_truth_ratio("_Truth_Ratio", true_better);
}

void add_model_utility(Scores& scores) {
    std::vector<double> parts;
    for (const char* name :
         {"retain_Q_A_Prob", "retain_Q_A_ROUGE", "retain_Truth_Ratio", "ra_Q_A_Prob_normalised", "ra_Q_A_ROUGE",
          "ra_Truth_Ratio", "wf_Q_A_Prob_normalised", "wf_Q_A_ROUGE", "wf_Truth_Ratio"}) {
        const auto at = scores.find(name);
        if (at == scores.end()) return;
        parts.push_back(at->second);
    }
    scores["model_utility"] = harmonic_mean(parts);
}

std::vector<double> truth_ratios(Rows rows, const ScoreOptions& options, const std::string& source) {
    std::vector<double> ratios;
    for (const RowScore& row : rows) {
        require_input(row.paraphrase && !row.perturbed.empty(), source, ": forget row ", ratios.size(),
                      " has no scores of a paraphrased and of perturbed answers, which forget quality needs; ",
                      "evaluate on a _perturbed set");
        ratios.push_back(truth_ratio(row, options.truth_ratio, options.protocol));
    }
    return ratios;
}

void add_forget_quality(Scores& scores, const EvalLog& log, const EvalLog& retain_log, const ScoreOptions& options) {
    const Rows rows = scored_rows(log.forget, options.protocol);
    const Rows retain_rows = scored_rows(retain_log.forget, options.protocol);
    if (rows.empty()) return;
    require_input(rows.size() == retain_rows.size(), log.source, " has ", rows.size(), " forget rows, the retain log ",
                  retain_log.source, " has ", retain_rows.size(),
                  "; take the retain log of the same forget set and protocol");
    scores["forget_quality"] =
        ks_test(truth_ratios(rows, options, log.source), truth_ratios(retain_rows, options, retain_log.source)).p;
}

/// How far the attack min-k is from what it reaches on the retain model, in percent; 0 is perfect, -100 a leak.
void add_privleak(Scores& scores, const EvalLog& log, const EvalLog& retain_log) {
    const auto at = log.attacks.find("mia_min_k"), retain_at = retain_log.attacks.find("mia_min_k");
    if (at == log.attacks.end() || retain_at == retain_log.attacks.end()) return;
    const double missed = 1 - attack_auc(at->second.forget, at->second.holdout);
    const double retain_missed = 1 - attack_auc(retain_at->second.forget, retain_at->second.holdout);
    scores["privleak"] = (missed - retain_missed) / (retain_missed + 1e-10) * 100;
}

}  // namespace

Scores score(const EvalLog& log, const EvalLog* retain_log, const ScoreOptions& options) {
    Scores scores;
    add_author_set(scores, log.forget, options, "forget", true);
    add_author_set(scores, log.retain, options, "retain", false);
    add_world_set(scores, log.real_authors, options, "ra");
    add_world_set(scores, log.world_facts, options, "wf");
    add_model_utility(scores);
    for (const auto& [name, values] : log.columns) scores[name] = mean_of(values, [](double value) { return value; });
    for (const auto& [name, attack] : log.attacks) scores[name] = attack_auc(attack.forget, attack.holdout);
    if (retain_log) {
        add_forget_quality(scores, log, *retain_log, options);
        add_privleak(scores, log, *retain_log);
    }
    return scores;
}

}  // namespace uipe::eval
