// A training run from model folder to run folder: `uipe train` and `uipe unlearn`.
#pragma once

#include "unlearn/session.h"
#include "unlearn/trainer.h"

namespace uipe::unlearn {

struct TrainingJob {
    const Objective* objective = nullptr;
    fs::path model;              // a model's or an adapter's folder, the latter with
    fs::path base;               // its model, where not the one it names; or
    fs::path init;               // a config.json for fresh weights, with
    fs::path tokenizer;          // its tokenizer
    std::vector<fs::path> data;  // the forget set when unlearning
    std::vector<fs::path> replay;
    std::vector<fs::path> retain;
    fs::path idk;  // refusals, a line each; the built-in ones without it
    fs::path out;
    std::string form = "llama2-chat";
    std::int64_t max_length = 512;
    tensor::DType dtype = tensor::DType::f32;
    tensor::Device device;
    int zero = 0;                                                        // stage, among several ranks
    bool fixed_order = false;                                            // GPUs add numbers of ranks in one order
    std::optional<llama::Recompute> recompute = llama::Recompute::norm;  // none: the least that fits
    llama::LoraConfig lora;  // rank 0: all weights are trained, or the adapter of `model`
    std::string memory;      // what there is, as --memory says it; empty: what the device has free
    TrainerOptions trainer;

    EvalSettings evaluation;
    std::int64_t eval_every = 1;  // epochs; 0: only after the last
    double utility_floor = 0.9;   // of the starting model's utility, for the selected epoch
    bool save_all = true;         // each epoch's model, or the last alone
    tensor::DType save_dtype = tensor::DType::f32;

    bool resume = false;
    bool overwrite = false;
    std::int64_t checkpoint_steps = 0;  // also within epochs; 0: at their ends
    std::int64_t keep = 1;              // checkpoints
    std::int64_t stop_after = 0;        // steps of this call; 0: all
    std::int64_t profile = -1;          // steps whose time is taken apart; 0: all; -1: none
};

/// A run was asked to stop, and has; it says after which step, but not what goes on with it.
struct Stopped : Error {
    using Error::Error;
};

struct TrainingResult {
    std::int64_t step = 0, steps = 0;
    double loss = 0;
    double tokens_per_second = 0;
    fs::path model;  // the last model or adapter written; empty when stopped before one was
    std::map<std::string, double> scores;
};

/// Runs the job into `job.out`; several ranks run it together, and rank 0 alone writes all but checkpoints. `config` is
/// its every value as JSON text, kept as config.json. A stop by SIGINT, SIGTERM or SIGUSR1 is a checkpoint and
/// Stopped.
TrainingResult run_training(const TrainingJob& job, const std::string& config);

}  // namespace uipe::unlearn
