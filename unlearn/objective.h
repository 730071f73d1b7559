// What a step minimises: fine-tuning and the unlearning methods, each a few lines on the terms below. A method is one
// file of unlearn/methods/, which says its formula, its paper and its defaults, and a line of the list in
// unlearn/methods/methods.h; the command line, plans, reports and the tests of every objective go by that list.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "llama/model.h"

namespace uipe::unlearn {

using autograd::Variable;
using tensor::Tensor;

/// Weights and constants of the objectives. A method that wants others than these has them in Objective::defaults.
struct ObjectiveOptions {
    double beta = 0.1;           // inverse temperature, exponent or shift of a logit: the method's formula has it
    double beta2 = 1.0;          // a second exponent
    double forget_weight = 1.0;  // γ, of the forget term
    double retain_weight = 1.0;  // α, of the retain term
    /// What a KL mean runs over: every position of the retain rows, prompt and answer; or their answers alone.
    bool kl_on_answers = false;
    std::int64_t rmu_layer = 0;  // whose output RMU moves, from 1; 0: 8, or the last of a model with fewer
    double rmu_coeff = 2.0;      // the norm of the vector that it moves it to
    std::uint64_t seed = 42;     // of that vector's direction; a Trainer sets its own
};

/// The layer that the options mean in this model. InputError when it has none of that number.
std::int64_t rmu_layer(const ObjectiveOptions& options, const llama::Config& config);

/// What a whole optimizer step holds, over all of its micro-batches: the denominators of every mean below. They make
/// the loss independent of how a batch is cut.
struct StepTotals {
    double forget_targets = 0, forget_rows = 0;
    double retain_targets = 0, retain_positions = 0;
    double refusal_targets = 0;
    std::int64_t tokens = 0;  // read by the model
};

/// One micro-batch: the rows of each kind that the objective reads, T = 0 where it reads none.
struct MicroBatch {
    llama::Batch all;      // the forget rows, behind them the refusals, and the retain rows last
    llama::Batch forget;   // for fine-tuning: the data
    llama::Batch refusal;  // the prompt of each forget row, and an answer that refuses
    llama::Batch retain;
    // [B] log π_ref of each forget row's and each refusal's targets, where the objective needs them.
    Tensor forget_reference, refusal_reference;
};

/// The micro-batch of these rows, of which any kind may be empty, but not all.
MicroBatch packed(const std::vector<llama::Sequence>& forget, const std::vector<llama::Sequence>& retain,
                  const std::vector<llama::Sequence>& refusals = {});

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
    /// mean over target tokens of -w log p on forget rows, with the constant w = p^a (1 - p)^b of the present p.
    Variable weighted_forget_nll(double a, double b) const;
    /// mean over target tokens of -log p, on retain rows.
    Variable retain_nll() const;
    /// mean over target tokens of -log p, of the refusals and the retain rows together, each with its factor.
    Variable refusal_and_retain_nll(double refusal_weight, double retain_weight) const;
    /// mean over positions of KL(π_ref || π) on retain rows.
    Variable retain_kl() const;

    /// mean over target tokens of the cross entropy against softmax(z - shift onehot(target)), on forget rows; z are
    /// the initial model's logits.
    Variable forget_distillation(double shift) const;
    /// The same against softmax(z) without the target, of the model's own present logits z, which are constant there;
    /// over the target tokens but the first of each row.
    Variable forget_without_target() const;

    // Of each forget row, [B].
    Variable forget_log_ratio() const;   // log π(y|x)/π_ref(y|x), sums over target tokens
    Variable refusal_log_ratio() const;  // the same of its refusal
    Variable forget_mean_logp() const;   // log π(y|x) / |y|
    /// mean over forget rows of x[B].
    Variable mean_over_forget_rows(const Variable& x) const;

    /// mean over target tokens and channels of (h - v)² on forget rows: h the output of a layer, v a constant direction
    /// of the options' seed.
    Variable forget_activations() const;
    /// mean over target tokens and channels of (h - h_ref)² on retain rows, h_ref of the initial model.
    Variable retain_activations() const;

private:
    /// The hidden states of all rows, and of those of each kind.
    const Variable& hidden() const;
    Variable forget_hidden() const;
    Variable retain_hidden() const;
    /// logp[T] of the targets of the rows of each kind.
    Variable forget_logp() const;
    Variable refusal_logp() const;
    Variable retain_logp() const;
    /// Outputs of the layer that the options name, of all rows.
    const Variable& activations() const;
    /// The sum over the batch's target tokens of the squared distances of x from y.
    Variable distance_on_targets(const Variable& x, const Tensor& y, const llama::Batch& batch) const;
    /// Numbers as the accumulator's type of the model, where it is.
    Tensor constant(const std::vector<double>& values) const;
    std::int64_t retain_begin() const { return batch_.forget.T + batch_.refusal.T; }

    const llama::Llama& model_;
    const llama::Llama* reference_;
    const MicroBatch& batch_;
    const StepTotals& totals_;
    const ObjectiveOptions& options_;
    mutable Variable hidden_, activations_;
};

struct Objective {
    std::string name;     // on the command line
    std::string title;    // in reports
    std::string formula;  // as --help prints it
    std::function<Variable(const Terms&)> loss;
    bool unlearns = true;  // false for fine-tuning
    // The rows it reads.
    bool forget = true;
    bool retain = false;
    bool refusals = false;
    bool reference_model = false;  // reads the initial model's distribution or activations
    bool reference_rows = false;   // reads one number a forget row, and a refusal, from it, computed once before step 1
    bool layer = false;            // reads the outputs of one layer
    bool divides_by_beta = false;  // so that it may not be 0
    ObjectiveOptions defaults = {};
};

/// All objectives, fine-tuning first.
const std::vector<Objective>& objectives();

/// The unlearning objective of that name; InputError lists the known ones.
const Objective& unlearning_objective(const std::string& name);
/// Plain negative log-likelihood.
const Objective& fine_tuning();

}  // namespace uipe::unlearn
