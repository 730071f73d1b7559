// The training loop, for fine-tuning and unlearning alike: epochs of steps of micro-batches, one AdamW step each,
// a checkpoint that resumes to the same bits.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <memory>

#include "nn/zero.h"
#include "tensor/readback.h"
#include "unlearn/checkpoint.h"
#include "unlearn/dataset.h"
#include "unlearn/objective.h"

namespace uipe::unlearn {

struct TrainerOptions {
    std::int64_t epochs = 5;
    std::int64_t batch_size = 32;  // rows an optimizer step
    std::int64_t micro_batch = 0;  // rows a forward pass; 0: batch_size. Changes memory, not the result
    double lr = 1e-5;
    nn::Schedule schedule = nn::Schedule::linear;
    double warmup_epochs = 1.0;
    nn::AdamWOptions adamw;
    double max_grad_norm = 1.0;  // 0: no clipping
    std::uint64_t seed = 42;     // also of the optimizer
    bool shuffle = true;
    double replay_ratio = 1.0;  // rows replayed a row of data, drawn anew each epoch; nothing without such rows
    ObjectiveOptions objective;
};

struct TrainData {
    std::vector<llama::Sequence> rows;           // fine-tuning data, or the forget set
    std::vector<llama::Sequence> replay;         // mixed into each epoch
    std::vector<llama::Sequence> retain;         // paired with forget rows
    std::vector<llama::Sequence> refusals = {};  // as are these, whose targets are put behind a forget row's prompt
};

/// How several ranks share the work: which model, in which type and where, and how much of it each of them keeps.
struct Distribution {
    tensor::Comm* comm = nullptr;  // none, or one of size 1: alone
    int zero = 0;                  // stage, see nn/zero.h
    tensor::DType dtype = tensor::DType::f32;
    tensor::Device device;

    bool shared() const { return comm != nullptr && comm->size() > 1; }
};

struct StepInfo {
    std::int64_t step = 0;   // from 1
    std::int64_t steps = 0;  // of the whole run
    std::int64_t epoch = 0;  // from 1
    double loss = 0, lr = 0, grad_norm = 0;
    std::int64_t tokens = 0;
    double seconds = 0;
    bool stop = false;  // a rank was asked to stop before this step was launched
};

/// What a forward pass holds.
struct MicroBatchSize {
    std::int64_t step = 0;  // from 0
    std::int64_t rank = 0;
    bool first = true;           // of its step
    std::int64_t rows = 0;       // of tokens, forget and retain
    std::int64_t head_rows = 0;  // those of which the head computes logits
    std::int64_t longest = 0;    // sequence
};

class Trainer {
public:
    /// `reference` is the initial model, for objectives that read its distribution; those that read its rows alone take
    /// `model` itself, which has not moved yet, where it is none. The caller keeps both models alive, except that a
    /// reference read for its rows is not needed after construction. The model's weights are changed in place;
    /// ranks that share the work lay out both models' anew, from any type and place.
    /// All ranks give the same data and options; a batch is cut among them. InputError when the data lacks what the
    /// objective needs.
    Trainer(llama::Llama& model, llama::Llama* reference, const Objective& objective, TrainData data,
            const TrainerOptions& options, const Distribution& ranks = {});

    ~Trainer();
    Trainer(const Trainer&) = delete;
    Trainer& operator=(const Trainer&) = delete;

    std::int64_t steps_per_epoch() const { return steps_per_epoch_; }
    std::int64_t total_steps() const { return steps_per_epoch_ * options_.epochs; }
    /// Steps that have been finished, and launched.
    std::int64_t step() const { return launched() - static_cast<std::int64_t>(flying_.size()); }
    std::int64_t launched() const { return optimizer_->steps(); }
    bool at_epoch_end() const { return step() % steps_per_epoch_ == 0; }
    /// Of the last step finished, by this run or, where none has been since, by the one that was loaded.
    double loss() const { return loss_; }

    /// Calls see() for every micro-batch of the run, in order.
    void for_each_micro_batch(const std::function<void(const MicroBatchSize&)>& see) const;
    /// Goes on at `step` as if those before it had been finished: for plans, which need not run them.
    /// With the rows of `rank`, where there are several.
    void skip_to(std::int64_t step, std::int64_t rank = 0);

    /// Runs the next step. Error, naming step and cure, when loss or gradient stops being finite.
    StepInfo run_step();

    /// run_step() in two halves, for a device that works while the host prepares what comes next: launch_step() queues
    /// the next step and waits for nothing, unless the optimizer is offloaded; finish_step() waits for the oldest one
    /// launched, and throws for it. A step whose gradient is not finite changes nothing, so those behind it do no harm.
    /// `stop` tells the other ranks that this one was asked to.
    void launch_step(bool stop = false);
    StepInfo finish_step();

    /// Gives, by its name, a weight to full precision. All ranks ask for the same names in the same order.
    std::function<Tensor(const std::string& name)> masters();
    /// Between them the whole model can be read, for an evaluation, on the ranks that keep it. All ranks.
    void gather_model(bool keep = true);
    void release_model();

    /// What this rank keeps of the optimizer.
    llama::StateDict state() const { return optimizer_->state(); }
    /// Writes the whole state as a folder, whole or not at all; all steps launched must have been finished.
    void save(const fs::path& folder) const;
    /// Restores a saved state, of any number of ranks. InputError when it is damaged, or belongs to another model or
    /// run.
    void load(const Checkpoint& saved);
    void load(const fs::path& folder) { load(Checkpoint(folder, ranks_.comm)); }

private:
    /// A step that has been launched, and the numbers that will come of it.
    struct Flying {
        StepInfo info;
        std::vector<tensor::Readback> losses;     // of the micro-batches, or their sum over ranks
        std::optional<tensor::Readback> stop;     // the ranks that were asked to
        std::optional<tensor::Readback> squares;  // the sum of squares of the gradient
        std::chrono::steady_clock::time_point start;
    };

    /// The rows of an epoch (from 0), in the order in which steps take them.
    std::vector<std::int64_t> order_of(std::int64_t epoch) const;
    std::int64_t num_ranks() const;
    /// Of a step (from 0): its rows in order_, [begin, end).
    std::pair<std::size_t, std::size_t> rows_of_step(std::int64_t index) const;
    /// A rank's share of them, as it takes it; ranges are empty where it has fewer rows than others.
    std::vector<std::pair<std::size_t, std::size_t>> micro_batches(std::size_t begin, std::size_t end,
                                                                   std::int64_t rank) const;
    MicroBatch micro_batch(const std::vector<std::int64_t>& order, std::size_t begin, std::size_t end,
                           std::int64_t epoch) const;
    StepTotals totals(const std::vector<std::int64_t>& order, std::size_t begin, std::size_t end,
                      std::int64_t epoch) const;
    const llama::Sequence& row(std::int64_t index) const;
    const llama::Sequence& retain_for(std::int64_t index, std::int64_t epoch) const;
    /// The row's prompt, and the refusal that it is paired with.
    llama::Sequence refusal_for(std::int64_t index, std::int64_t epoch) const;
    /// Where reference_logp_ has the latter's.
    std::size_t refusal_place(std::int64_t index, std::int64_t epoch) const;

    /// log π_ref of every forget row, and then of its refusal in every epoch, where the objective reads those.
    std::vector<double> row_logprobs(const llama::Llama& reference) const;
    /// Leaves the gradient of this rank's share of rows [begin, end) of order_; the losses of its micro-batches.
    std::vector<Tensor> backward(const StepTotals& all, std::size_t begin, std::size_t end, std::int64_t epoch);

    /// A hash of the data, of the reference and of what is frozen: a checkpoint resumes with the same ones only.
    std::string fingerprint();

    llama::Llama& model_;
    llama::Llama* reference_;
    const Objective& objective_;
    TrainData data_;
    TrainerOptions options_;
    Distribution ranks_;
    std::int64_t as_rank_ = 0;                       // whose rows are taken
    std::optional<nn::Zero> zero_, reference_zero_;  // where work is shared
    nn::Parameters parameters_;                      // what this rank updates
    std::optional<nn::AdamW> optimizer_;
    std::string fingerprint_;
    std::vector<double> reference_logp_;  // see row_logprobs()
    std::int64_t rows_per_epoch_ = 0;
    std::int64_t steps_per_epoch_ = 0;
    std::int64_t warmup_steps_ = 0;
    std::vector<std::int64_t> order_;  // of epoch order_epoch_
    std::int64_t order_epoch_ = -1;
    std::deque<Flying> flying_;
    std::chrono::steady_clock::time_point finished_;  // the last step
    double loss_ = 0;
};

}  // namespace uipe::unlearn
