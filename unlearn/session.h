// What commands share: a model with its tokenizer, and evaluation into a folder.
#pragma once

#include <memory>
#include <optional>

#include "eval/evaluate.h"
#include "eval/score.h"

namespace uipe::unlearn {

/// A model folder, loaded.
struct LoadedModel {
    llama::Config config;
    llama::Tokenizer tokenizer;
    std::unique_ptr<llama::Llama> model;
    fs::path folder;
};

/// Loads a model folder onto `device`. `writable`: weights are copied for training; else, on the CPU, they stay mapped
/// from the file where their type is `dtype`. InputError for missing files, a tokenizer that is not the model's,
/// weights that are not finite.
LoadedModel load_model(const fs::path& folder, tensor::DType dtype, tensor::Device device, bool writable);

/// The weights of a folder, checked to be finite.
llama::StateDict load_weights(const fs::path& folder, const llama::Config& config);

struct EvalSettings {
    fs::path tofu;  // empty: no evaluation
    std::string split = "forget10";
    fs::path retain_log;  // empty: no forget quality
    std::string protocol = "open-unlearning";
    std::string form = "llama2-chat";
    std::int64_t max_rows = 0;
    std::int64_t max_new_tokens = 200;
};

/// "tofu" or "open-unlearning"; InputError lists them.
eval::Protocol protocol_named(const std::string& name);

/// TOFU's sets and the retain log, read once and evaluated against many times.
class Evaluation {
public:
    /// InputError when files are missing or the retain log's forget set has another number of rows.
    explicit Evaluation(const EvalSettings& settings);

    /// Evaluates, with progress under `label`.
    eval::EvalLog run(const llama::Llama& model, const llama::Tokenizer& tokenizer, const std::string& label) const;
    /// The metrics of a log.
    eval::Scores score(const eval::EvalLog& log) const;
    /// Writes TOFU_EVAL.json, TOFU_SUMMARY.json and, under the tofu protocol, eval_log_aggregated.json.
    void write(const fs::path& folder, const eval::EvalLog& log) const;

private:
    EvalSettings settings_;
    eval::TofuSets sets_;
    std::optional<eval::EvalLog> retain_;
};

/// One line: "forget quality 1.2e-05  model utility 0.554  forget ROUGE 0.91".
std::string score_line(const eval::Scores& scores);

}  // namespace uipe::unlearn
