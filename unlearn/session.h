// What commands share: a model with its tokenizer, and evaluation into a folder.
#pragma once

#include <memory>
#include <optional>

#include "eval/evaluate.h"
#include "eval/score.h"

namespace uipe::unlearn {

/// A model folder, or an adapter's with the model it names, loaded.
struct LoadedModel {
    llama::Config config;
    llama::Tokenizer tokenizer;
    std::unique_ptr<llama::Llama> model;
    fs::path folder;        // the model's own
    fs::path adapter = {};  // or none
};

/// How a model folder's weights are loaded. Those below an adapter are always shared.
enum class Weights : std::uint8_t {
    shared,    // in the type and place asked for; mapped from the file where they are that already
    own,       // copied, for training
    as_stored  // mapped from the file, for ranks that lay them out themselves
};

/// The config and tokenizer of a model folder, or of the model of an adapter's; no weights yet. `base`: see base_of.
/// InputError for missing files, a tokenizer that is not the model's.
LoadedModel open_model(const fs::path& folder, const fs::path& base = {});
/// Its weights, and its adapter. InputError for weights that are missing or not finite.
void load_into(LoadedModel& opened, tensor::DType dtype, tensor::Device device, Weights weights);
/// Both at once.
LoadedModel load_model(const fs::path& folder, tensor::DType dtype, tensor::Device device, Weights weights,
                       const fs::path& base = {});
/// Whether all weights of a folder that are shared stay mapped in a model of `dtype`.
bool stays_mapped(const LoadedModel& opened, tensor::DType dtype, tensor::Device device);

/// The weights of a folder, checked to be finite.
llama::StateDict load_weights(const fs::path& folder, const llama::Config& config);

/// The model folder of an adapter's folder: `base` where it is given, or what its base_model_name_or_path names, as
/// seen from the adapter's folder or else from the working directory. A model folder is its own. InputError says what
/// was looked for.
fs::path base_of(const fs::path& folder, const fs::path& base = {});
/// The folder that an adapter names, where it is there.
std::optional<fs::path> named_base(const fs::path& adapter);

struct EvalSettings {
    fs::path tofu;  // empty: no evaluation
    std::string split = "forget10";
    fs::path retain_log;  // empty: no forget quality
    std::string protocol = "open-unlearning";
    std::string form = "llama2-chat";
    std::int64_t max_rows = 0;
    std::int64_t max_new_tokens = 200;
    bool forget_only = false;  // no utility
};

/// "tofu" or "open-unlearning"; InputError lists them.
eval::Protocol protocol_named(const std::string& name);

/// InputError where a retain log is of other questions than the forget set: another number of rows, as a protocol
/// judges them, or no row whose answer has the letters and digits of the set's, where the log says answers at all.
void require_same_questions(const eval::EvalLog& retain_log, const std::vector<eval::QaRow>& forget,
                            eval::Protocol protocol, const std::string& set);

/// TOFU's sets and the retain log, read once and evaluated against many times.
class Evaluation {
public:
    /// InputError when files are missing or the retain log is of other questions.
    explicit Evaluation(const EvalSettings& settings);

    /// Evaluates, with progress under `label`.
    eval::EvalLog run(const llama::Llama& model, const llama::Tokenizer& tokenizer, const std::string& label) const;
    /// The metrics of a log.
    eval::Scores score(const eval::EvalLog& log) const;
    /// The scores of the answers of some rows: no generation, so no ROUGE.
    eval::SetScore answers(const llama::Llama& model, const llama::Tokenizer& tokenizer,
                           const std::vector<eval::QaRow>& rows, const std::string& label) const;
    /// The model utility, from its three sets alone.
    double utility(const llama::Llama& model, const llama::Tokenizer& tokenizer, const std::string& label) const;
    /// Writes TOFU_EVAL.json, TOFU_SUMMARY.json and, under the tofu protocol, eval_log_aggregated.json.
    void write(const fs::path& folder, const eval::EvalLog& log) const;

    const eval::TofuSets& sets() const { return sets_; }
    /// Null without one.
    const eval::EvalLog* retain_log() const { return retain_ ? &*retain_ : nullptr; }
    eval::Protocol protocol() const { return protocol_named(settings_.protocol); }
    /// The split's rows that no model saw: "holdout10" and what is put behind it.
    fs::path heldout_file(const std::string& suffix) const;

private:
    eval::EvalLog run(const llama::Llama& model, const llama::Tokenizer& tokenizer, const eval::TofuSets& sets,
                      const std::string& label, bool generates) const;

    EvalSettings settings_;
    eval::TofuSets sets_;
    std::optional<eval::EvalLog> retain_;
};

/// One line: "forget quality 1.2e-05  model utility 0.554  forget ROUGE 0.91".
std::string score_line(const eval::Scores& scores);

}  // namespace uipe::unlearn
