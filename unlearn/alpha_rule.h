// What alpha is chosen by: the gap between how a model knows the forget rows and how an unlearned one should.
#pragma once

#include "unlearn/alpha.h"
#include "unlearn/session.h"

namespace uipe::unlearn {

/// A statistic of each forget row, set against the same statistic of rows that were never learned.
///
/// Truth ratios are compared by the distance D of the Kolmogorov-Smirnov test, the one behind forget quality: at equal
/// numbers of rows its p falls as D grows. Losses are compared by the membership attack: the area under the ROC curve
/// less 1/2. A gap is above 0 while the forget rows rank as the better known, below 0 once they rank as the less known.
struct AlphaRule {
    enum class Statistic : std::uint8_t { truth_ratio, loss };
    enum class Against : std::uint8_t {
        retain_log,     // the forget rows in the retain model
        heldout,        // held-out rows in the model at hand
        heldout_before  // held-out rows in the model before unlearning, which no update has touched
    };
    std::string name;
    Statistic statistic;
    Against against;
    std::string what;  // in a line
};

const std::vector<AlphaRule>& alpha_rules();

/// The gap between the statistics of forget rows and of what is not known; NaN where one of them is.
double gap_of(AlphaRule::Statistic statistic, const std::vector<double>& forget, const std::vector<double>& unknown);

/// Measures models by a rule: answers of the forget and held-out rows are scored, generated is only what model utility
/// needs.
class AlphaGauge {
public:
    /// `rule` by its name; empty: quality where there is a retain log, else truth-ratio-before or, where held-out rows
    /// have no perturbed answers, attack. InputError when what the rule needs is not there, with what would do.
    AlphaGauge(const Evaluation& evaluation, const std::string& rule);

    const AlphaRule& rule() const { return *rule_; }
    /// Whether the model before unlearning must be shown first.
    bool needs_base() const { return rule_->against == AlphaRule::Against::heldout_before; }
    void show_base(const llama::Llama& model, const llama::Tokenizer& tokenizer);
    /// The gap and the model utility of a model.
    AlphaMeasure measure(const llama::Llama& model, const llama::Tokenizer& tokenizer, const std::string& label) const;

private:
    std::vector<double> statistics(const eval::SetScore& set) const;
    std::vector<double> measured(const llama::Llama& model, const llama::Tokenizer& tokenizer,
                                 const std::vector<eval::QaRow>& rows, const std::string& label) const;

    const Evaluation& evaluation_;
    const AlphaRule* rule_;
    std::vector<eval::QaRow> forget_, heldout_;
    std::vector<double> unknown_;  // the statistic of what is not known, where it is the same for every alpha
};

}  // namespace uipe::unlearn
