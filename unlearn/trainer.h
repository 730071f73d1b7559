// The training loop, for fine-tuning and unlearning alike: epochs of steps of micro-batches, one AdamW step each,
// a checkpoint that resumes to the same bits.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <memory>

#include "nn/optimizer.h"
#include "tensor/readback.h"
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
    std::uint64_t seed = 42;
    bool shuffle = true;
    double replay_ratio = 1.0;  // rows replayed a row of data, drawn anew each epoch; nothing without such rows
    ObjectiveOptions objective;
};

struct TrainData {
    std::vector<llama::Sequence> rows;    // fine-tuning data, or the forget set
    std::vector<llama::Sequence> replay;  // mixed into each epoch
    std::vector<llama::Sequence> retain;  // paired with forget rows
};

struct StepInfo {
    std::int64_t step = 0;   // from 1
    std::int64_t steps = 0;  // of the whole run
    std::int64_t epoch = 0;  // from 1
    double loss = 0, lr = 0, grad_norm = 0;
    std::int64_t tokens = 0;
    double seconds = 0;
};

class Trainer {
public:
    /// `reference` is the initial model, for objectives that need it; the caller keeps both models alive, except that a
    /// reference read for its rows alone is not needed after construction. The model's weights are changed in place.
    /// InputError when the data lacks what the objective needs.
    Trainer(llama::Llama& model, const llama::Llama* reference, const Objective& objective, TrainData data,
            const TrainerOptions& options);

    std::int64_t steps_per_epoch() const { return steps_per_epoch_; }
    std::int64_t total_steps() const { return steps_per_epoch_ * options_.epochs; }
    /// Steps that have been finished, and launched.
    std::int64_t step() const { return launched() - static_cast<std::int64_t>(flying_.size()); }
    std::int64_t launched() const { return optimizer_.steps(); }
    bool at_epoch_end() const { return step() % steps_per_epoch_ == 0; }

    /// Runs the next step. Error, naming step and cure, when loss or gradient stops being finite.
    StepInfo run_step();

    /// run_step() in two halves, for a device that works while the host prepares what comes next: launch_step() queues
    /// the next step and waits for nothing; finish_step() waits for the oldest one launched, and throws for it.
    /// A step whose gradient is not finite changes nothing, so those behind it do no harm.
    void launch_step();
    StepInfo finish_step();

    /// The weights to full precision.
    llama::StateDict masters() const { return optimizer_.masters(); }

    /// Writes the whole state as a folder, whole or not at all; all steps launched must have been finished.
    void save(const fs::path& folder) const;
    /// Restores a saved state. InputError when it belongs to another model or run.
    void load(const fs::path& folder);

private:
    /// A step that has been launched, and the numbers that will come of it.
    struct Flying {
        StepInfo info;
        std::vector<tensor::Readback> losses;  // of the micro-batches
        tensor::Readback squares;              // the sum of squares of the gradient
        std::chrono::steady_clock::time_point start;
    };

    MicroBatch micro_batch(const std::vector<std::int64_t>& order, std::size_t begin, std::size_t end,
                           std::int64_t epoch) const;
    StepTotals totals(const std::vector<std::int64_t>& order, std::size_t begin, std::size_t end,
                      std::int64_t epoch) const;
    const llama::Sequence& row(std::int64_t index) const;
    const llama::Sequence& retain_for(std::int64_t index, std::int64_t epoch) const;

    /// A hash of the data and of the reference: a checkpoint resumes with the same ones only.
    std::string fingerprint() const;

    llama::Llama& model_;
    const llama::Llama* reference_;
    const Objective& objective_;
    TrainData data_;
    TrainerOptions options_;
    nn::Parameters parameters_;
    nn::AdamW optimizer_;
    std::vector<double> reference_logp_;  // per forget row
    std::int64_t rows_per_epoch_ = 0;
    std::int64_t steps_per_epoch_ = 0;
    std::int64_t warmup_steps_ = 0;
    std::vector<std::int64_t> order_;  // of epoch order_epoch_
    std::int64_t order_epoch_ = -1;
    std::deque<Flying> flying_;
    std::chrono::steady_clock::time_point finished_;  // the last step
};

}  // namespace uipe::unlearn
