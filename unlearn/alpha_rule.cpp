#include "unlearn/alpha_rule.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "eval/auc.h"
#include "eval/ks.h"

namespace uipe::unlearn {
namespace {

using Statistic = AlphaRule::Statistic;
using Against = AlphaRule::Against;

const AlphaRule& rule_named(const std::string& name) {
    std::string known;
    for (const AlphaRule& rule : alpha_rules()) {
        if (rule.name == name) return rule;
        known += (known.empty() ? "" : ", ") + rule.name;
    }
    throw InputError(cat("unknown --alpha-rule '", name, "'; known: ", known));
}

std::string heldout_rules() {
    std::string names;
    for (const AlphaRule& rule : alpha_rules())
        if (rule.against != Against::retain_log) names += (names.empty() ? "" : ", ") + rule.name;
    return names;
}

/// The best rule that the files allow.
std::string default_rule(const Evaluation& evaluation) {
    if (evaluation.retain_log()) return "quality";
    return fs::exists(evaluation.heldout_file("_perturbed")) ? "truth-ratio-before" : "attack";
}

/// InputError where a held-out row is one of the rows of a set that the model has seen.
void require_unseen(const std::vector<eval::QaRow>& heldout, const std::vector<eval::QaRow>& seen, const char* set,
                    const fs::path& file) {
    for (std::size_t i = 0; i < heldout.size(); ++i)
        for (std::size_t k = 0; k < seen.size(); ++k)
            require_input(heldout[i].question != seen[k].question || heldout[i].answer != seen[k].answer, file.string(),
                          ": row ", i + 1, " is row ", k + 1, " of the ", set,
                          " set; held-out rows are to be ones that the model never saw");
}

}  // namespace

const std::vector<AlphaRule>& alpha_rules() {
    static const std::vector<AlphaRule> rules{
        {"quality", Statistic::truth_ratio, Against::retain_log,
         "truth ratios of the forget rows against the retain log's: forget quality's own distance"},
        {"truth-ratio", Statistic::truth_ratio, Against::heldout,
         "truth ratios of the forget rows against the held-out rows', in the same model"},
        {"truth-ratio-before", Statistic::truth_ratio, Against::heldout_before,
         "truth ratios of the forget rows against the held-out rows' in the model before unlearning"},
        {"attack", Statistic::loss, Against::heldout,
         "the membership attack by loss, forget rows against held-out rows, in the same model"},
        {"attack-before", Statistic::loss, Against::heldout_before,
         "losses of the forget rows against the held-out rows' in the model before unlearning"}};
    return rules;
}

double gap_of(Statistic statistic, const std::vector<double>& forget, const std::vector<double>& unknown) {
    for (const auto* side : {&forget, &unknown})
        if (std::any_of(side->begin(), side->end(), [](double x) { return std::isnan(x); }))
            return std::numeric_limits<double>::quiet_NaN();
    // Rows that are known have the smaller truth ratio and the smaller loss.
    const double lead = eval::attack_auc(forget, unknown) - 0.5;
    return statistic == Statistic::loss ? lead : std::copysign(eval::ks_test(forget, unknown).D, lead);
}

AlphaGauge::AlphaGauge(const Evaluation& evaluation, const std::string& rule)
    : evaluation_(evaluation),
      rule_(&rule_named(rule.empty() ? default_rule(evaluation) : rule)),
      forget_(evaluation.sets().forget) {
    if (rule_->against == Against::retain_log) {
        const eval::EvalLog* log = evaluation.retain_log();
        require_input(log != nullptr, "--alpha-rule quality needs --retain-log FILE; without one: ", heldout_rules());
        for (const eval::RowScore& row : log->forget.rows)
            require_input(row.paraphrase && !row.perturbed.empty(), log->source,
                          ": a forget row has no scores of a paraphrased and of perturbed answers, which truth ratios "
                          "need; evaluate on a _perturbed set");
        unknown_ = statistics(log->forget);
        return;
    }
    const bool ratios = rule_->statistic == Statistic::truth_ratio;
    const fs::path file = evaluation.heldout_file(ratios ? "_perturbed" : "");
    require_input(fs::exists(file), file.string(), ": is missing: choosing alpha by ", rule_->name,
                  " needs rows the model never saw", ratios ? ", with paraphrased and perturbed answers" : "",
                  "; write them there, or give ",
                  ratios ? "--alpha-rule attack, which needs questions and answers only, or " : "",
                  "--retain-log FILE");
    heldout_ = eval::read_qa(file, ratios ? eval::author_rows : eval::answers_only);
    require_unseen(heldout_, forget_, "forget", file);
    require_unseen(heldout_, evaluation.sets().retain, "retain", file);  // as far as utility is measured on them
    if (ratios) return;
    for (eval::QaRow& row : forget_) row = {row.question, row.answer, {}, {}};
}

std::vector<double> AlphaGauge::statistics(const eval::SetScore& set) const {
    std::vector<double> out;
    const std::size_t rows = eval::rows_judged(evaluation_.protocol(), set.rows.size());
    for (std::size_t i = 0; i < rows; ++i) {
        const eval::RowScore& row = set.rows[i];
        out.push_back(rule_->statistic == Statistic::loss
                          ? row.answer.avg_loss
                          : truth_ratio(row, eval::TruthRatio::geometric, evaluation_.protocol()));
    }
    return out;
}

std::vector<double> AlphaGauge::measured(const llama::Llama& model, const llama::Tokenizer& tokenizer,
                                         const std::vector<eval::QaRow>& rows, const std::string& label) const {
    return statistics(evaluation_.answers(model, tokenizer, rows, label));
}

void AlphaGauge::show_base(const llama::Llama& model, const llama::Tokenizer& tokenizer) {
    unknown_ = measured(model, tokenizer, heldout_, "held-out rows before unlearning");
}

AlphaMeasure AlphaGauge::measure(const llama::Llama& model, const llama::Tokenizer& tokenizer,
                                 const std::string& label) const {
    require(!unknown_.empty() || rule_->against == Against::heldout, "the model before unlearning was not shown");
    const std::vector<double> forget = measured(model, tokenizer, forget_, cat(label, ", forget rows"));
    const std::vector<double> unknown = rule_->against == Against::heldout
                                            ? measured(model, tokenizer, heldout_, cat(label, ", held-out rows"))
                                            : unknown_;
    return {gap_of(rule_->statistic, forget, unknown), evaluation_.utility(model, tokenizer, cat(label, ", utility"))};
}

}  // namespace uipe::unlearn
