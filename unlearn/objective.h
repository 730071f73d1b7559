// What a step minimises: fine-tuning and the unlearning objectives, each a few lines on four terms.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "llama/model.h"

namespace uipe::unlearn {

using autograd::Variable;
using tensor::Tensor;

/// Weights and constants of the objectives.
struct ObjectiveOptions {
    double beta = 0.1;           // NPO's inverse temperature
    double forget_weight = 1.0;  // γ, of the forget term
    double retain_weight = 1.0;  // of the retain term
    /// What a KL mean runs over: every position of the retain rows, prompt and answer; or their answers alone.
    bool kl_on_answers = false;
};

/// What a whole optimizer step holds, over all of its micro-batches: the denominators of every mean below. They make
/// the loss independent of how a batch is cut.
struct StepTotals {
    double forget_targets = 0, forget_rows = 0;
    double retain_targets = 0, retain_positions = 0;
    std::int64_t tokens = 0;  // read by the model
};

/// One micro-batch.
struct MicroBatch {
    llama::Batch both;      // the forget rows, and behind them the retain rows
    llama::Batch forget;    // for fine-tuning: the data
    llama::Batch retain;    // T = 0 where the objective has no retain term
    Tensor reference_logp;  // [B] log π_ref of each forget row's targets, where the objective needs it
};

/// The micro-batch of these rows; `retain` may be empty.
MicroBatch packed(std::vector<llama::Sequence> forget, const std::vector<llama::Sequence>& retain);

/// The terms objectives are made of. Each is a share of a mean over the step: summed over micro-batches they are the
/// mean. All NLLs are in nats. All terms read one pass of the micro-batch through the model, made by the first of them,
/// so one backward pass serves the sum of all that are asked for.
class Terms {
public:
    Terms(const llama::Llama& model, const llama::Llama* reference, const MicroBatch& batch, const StepTotals& totals,
          const ObjectiveOptions& options)
        : model_(model), reference_(reference), batch_(batch), totals_(totals), options_(options) {}

    const ObjectiveOptions& options() const { return options_; }
    /// mean over target tokens of -log p, on forget rows.
    Variable forget_nll() const;
    /// mean over target tokens of -log p, on retain rows.
    Variable retain_nll() const;
    /// mean over positions of KL(π_ref || π) on retain rows.
    Variable retain_kl() const;
    /// mean over forget rows of f(log π(y|x) - log π_ref(y|x)), sums over each row's target tokens; f acts on [B].
    Variable mean_over_forget_rows(const std::function<Variable(const Variable& log_ratio)>& f) const;

private:
    /// The hidden states of forget and retain rows.
    const Variable& hidden() const;
    /// logp[T] of the targets of the forget rows, and of the retain rows.
    Variable forget_logp() const;
    Variable retain_logp() const;
    Variable retain_hidden() const;

    const llama::Llama& model_;
    const llama::Llama* reference_;
    const MicroBatch& batch_;
    const StepTotals& totals_;
    const ObjectiveOptions& options_;
    mutable Variable hidden_;
};

struct Objective {
    std::string name;      // on the command line
    std::string title;     // in reports
    std::string formula;   // as --help prints it
    bool unlearns;         // false for fine-tuning
    bool retain;           // has a retain term
    bool reference_model;  // reads the initial model's distribution
    bool reference_rows;   // reads one number a forget row from the initial model, computed once before step 1
    std::function<Variable(const Terms&)> loss;
};

/// All objectives, fine-tuning first.
const std::vector<Objective>& objectives();

/// The unlearning objective of that name; InputError lists the known ones.
const Objective& unlearning_objective(const std::string& name);
/// Plain negative log-likelihood.
const Objective& fine_tuning();

}  // namespace uipe::unlearn
