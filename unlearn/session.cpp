#include "unlearn/session.h"

#include <cstdio>

#include "llama/weights.h"
#include "tensor/ops.h"
#include "unlearn/progress.h"

namespace uipe::unlearn {

llama::StateDict load_weights(const fs::path& folder, const llama::Config& config) {
    llama::StateDict weights = llama::read_weights(folder, config);
    llama::check_finite(weights, folder.string());
    return weights;
}

LoadedModel load_model(const fs::path& folder, tensor::DType dtype, tensor::Device device, bool writable) {
    require_input(!fs::exists(folder / "metrics.jsonl"), folder.string(), ": is a run, not a model; its model is ",
                  (fs::exists(folder / "model") ? folder / "model" : folder / "epochs/N/model").string());
    LoadedModel out{llama::read_config(folder), llama::Tokenizer::load(folder), nullptr, folder};
    llama::check_tokenizer(out.tokenizer, out.config);
    tensor::check_device(device, dtype, out.config.head_dim);
    const llama::StateDict weights = load_weights(folder, out.config);
    const auto move = writable ? llama::own_weights : llama::moved_weights;
    out.model = std::make_unique<llama::Llama>(out.config, move(weights, dtype, device));
    return out;
}

eval::Protocol protocol_named(const std::string& name) {
    if (name == "tofu") return eval::Protocol::tofu;
    require_input(name == "open-unlearning", "unknown protocol '", name, "'; known: tofu, open-unlearning");
    return eval::Protocol::open_unlearning;
}

Evaluation::Evaluation(const EvalSettings& settings) : settings_(settings) {
    require_input(settings.max_rows >= 0, "--eval-rows must be 0 (all) or more, not ", settings.max_rows);
    require_input(settings.max_new_tokens >= 0, "--eval-tokens must not be negative");
    const eval::Protocol protocol = protocol_named(settings.protocol);
    sets_ = eval::read_tofu(settings.tofu, settings.split, settings.max_rows);
    llama::prompt_template(settings.form);
    if (settings.retain_log.empty()) return;
    retain_ = eval::read_log(settings.retain_log);
    const std::size_t rows = eval::rows_judged(protocol, sets_.forget.size());
    const std::size_t reference = eval::rows_judged(protocol, retain_->forget.rows.size());
    require_input(rows == reference, settings.retain_log.string(), ": its forget set has ", reference, " rows, ",
                  settings.split, " in ", settings.tofu.string(), " has ", rows,
                  "; forget quality needs a retain log of the same rows");
}

eval::EvalLog Evaluation::run(const llama::Llama& model, const llama::Tokenizer& tokenizer,
                              const std::string& label) const {
    Progress progress(label, 1.0);
    eval::EvaluateOptions options;
    options.protocol = protocol_named(settings_.protocol);
    options.form = llama::prompt_template(settings_.form);
    options.max_new_tokens = settings_.max_new_tokens;
    options.progress = [&](double done) { progress.update(done); };
    return eval::evaluate(model, tokenizer, sets_, options);
}

eval::Scores Evaluation::score(const eval::EvalLog& log) const {
    eval::ScoreOptions options;
    options.protocol = protocol_named(settings_.protocol);
    return eval::score(log, retain_ ? &*retain_ : nullptr, options);
}

void Evaluation::write(const fs::path& folder, const eval::EvalLog& log) const {
    eval::write_open_unlearning_log(folder, log, retain_ ? &*retain_ : nullptr);
    if (log.format == eval::Protocol::tofu) eval::write_tofu_log(folder / "eval_log_aggregated.json", log);
}

std::string score_line(const eval::Scores& scores) {
    std::string line;
    const auto add = [&](const char* name, const char* title, const char* format) {
        const auto found = scores.find(name);
        if (found == scores.end()) return;
        char text[64];
        std::snprintf(text, sizeof text, format, found->second);
        line += cat(line.empty() ? "" : "  ", title, " ", text);
    };
    add("forget_quality", "forget quality", "%.3g");
    add("model_utility", "model utility", "%.3f");
    add("forget_Q_A_ROUGE", "forget ROUGE", "%.3f");
    add("forget_Q_A_Prob", "forget probability", "%.3f");
    return line;
}

}  // namespace uipe::unlearn
