#include "unlearn/session.h"

#include <algorithm>
#include <cstdio>

#include "llama/keys.h"
#include "llama/weights.h"
#include "tensor/allocator.h"
#include "tensor/ops.h"
#include "unlearn/progress.h"

namespace uipe::unlearn {

llama::StateDict load_weights(const fs::path& folder, const llama::Config& config) {
    llama::StateDict weights = llama::read_weights(folder, config);
    llama::check_finite(weights, folder.string());
    return weights;
}

namespace {

bool is_model(const fs::path& folder) { return fs::exists(folder / "config.json") && !llama::is_adapter(folder); }

/// Where what a run has made is: "RUN/adapter", "RUN/epochs/N/model", ….
std::string product_of(const fs::path& run) {
    for (const char* kind : {"model", "adapter"})
        if (fs::exists(run / kind)) return (run / kind).string();
    return cat((run / "epochs/N/model").string(), " or adapter");
}

}  // namespace

fs::path base_of(const fs::path& folder, const fs::path& base) {
    if (!llama::is_adapter(folder)) {
        require_input(base.empty(), folder.string(), ": is no adapter, so --base has no meaning; leave it out");
        return folder;
    }
    if (!base.empty()) {
        require_input(is_model(base), base.string(), ": is no model folder; --base names the model of an adapter");
        return base;
    }
    if (const auto named = named_base(folder)) return *named;
    throw InputError(cat(folder.string(), ": is an adapter of the model ",
                         llama::shown(Json(llama::read_lora_config(folder).base)),
                         ", of which there is no folder, from the adapter's or from here; give --base DIR"));
}

std::optional<fs::path> named_base(const fs::path& adapter) {
    const std::string name = llama::read_lora_config(adapter).base;
    for (const fs::path& path : {adapter / name, fs::path(name)})
        if (!name.empty() && is_model(path)) return path.lexically_normal();
    return {};
}

namespace {

llama::StateDict placed(const llama::StateDict& stored, tensor::DType dtype, tensor::Device device, Weights weights) {
    if (weights == Weights::as_stored) return stored;
    return weights == Weights::own ? llama::own_weights(stored, dtype, device)
                                   : llama::moved_weights(stored, dtype, device);
}

}  // namespace

LoadedModel open_model(const fs::path& folder, const fs::path& base) {
    require_input(fs::exists(folder), folder.string(), ": No such file or directory; a model is a folder with ",
                  "config.json, a tokenizer and safetensors, as Hugging Face has them");
    require_input(!fs::exists(folder / "metrics.jsonl"), folder.string(), ": is a run, not a model; its model is ",
                  product_of(folder));
    const fs::path model = base_of(folder, base);
    LoadedModel out{llama::read_config(model), llama::Tokenizer::load(model), nullptr, model};
    if (llama::is_adapter(folder)) out.adapter = folder;
    llama::check_tokenizer(out.tokenizer, out.config);
    return out;
}

void load_into(LoadedModel& opened, tensor::DType dtype, tensor::Device device, Weights weights) {
    tensor::check_device(device, dtype, opened.config.head_dim);
    const llama::StateDict stored = load_weights(opened.folder, opened.config);
    opened.model = std::make_unique<llama::Llama>(opened.config, placed(stored, dtype, device, weights));
    if (opened.adapter.empty()) return;
    llama::Adapter adapter = llama::read_adapter(opened.adapter, opened.config);
    adapter.config.base = fs::absolute(opened.folder).lexically_normal().string();
    opened.model->set_adapter(adapter, dtype, device);
}

LoadedModel load_model(const fs::path& folder, tensor::DType dtype, tensor::Device device, Weights weights,
                       const fs::path& base) {
    LoadedModel out = open_model(folder, base);
    load_into(out, dtype, device, weights);
    return out;
}

bool stays_mapped(const LoadedModel& opened, tensor::DType dtype, tensor::Device device) {
    if (device.kind != tensor::Device::Kind::cpu) return false;
    const llama::StateDict weights = llama::read_weights(opened.folder, opened.config);
    return std::all_of(weights.begin(), weights.end(), [dtype](const auto& w) { return w.second.dtype() == dtype; });
}

eval::Protocol protocol_named(const std::string& name) {
    if (name == "tofu") return eval::Protocol::tofu;
    require_input(name == "open-unlearning", "unknown protocol '", name, "'; known: tofu, open-unlearning");
    return eval::Protocol::open_unlearning;
}

void require_same_questions(const eval::EvalLog& retain_log, const std::vector<eval::QaRow>& forget,
                            eval::Protocol protocol, const std::string& set) {
    const std::size_t rows = eval::rows_judged(protocol, forget.size());
    const std::size_t reference = eval::rows_judged(protocol, retain_log.forget.rows.size());
    require_input(rows == reference, retain_log.source, ": its forget set has ", reference, " rows, ", set, " has ",
                  rows, "; forget quality needs a retain log of the same rows");
    const auto letters = [](const std::string& text) {
        std::string out;
        for (const char c : text)
            if (std::isalnum(static_cast<unsigned char>(c)) != 0) out += c;
        return out;
    };
    bool says = false, same = false;
    for (std::size_t i = 0; i < rows; ++i) {
        const std::string& answer = retain_log.forget.rows[i].ground_truth;
        says = says || !answer.empty();
        same = same || letters(answer) == letters(forget[i].answer);
    }
    require_input(!says || same, retain_log.source, ": is of other questions than ", set, ": its first answer is '",
                  retain_log.forget.rows.front().ground_truth.substr(0, 60), "'");
}

Evaluation::Evaluation(const EvalSettings& settings) : settings_(settings) {
    require_input(settings.max_rows >= 0, "--eval-rows must be 0 (all) or more, not ", settings.max_rows);
    require_input(settings.max_new_tokens >= 0, "--eval-tokens must not be negative");
    const eval::Protocol protocol = protocol_named(settings.protocol);
    sets_ = eval::read_tofu(settings.tofu, settings.split, settings.max_rows);
    if (settings.forget_only)
        for (auto* set : {&sets_.retain, &sets_.real_authors, &sets_.world_facts}) set->clear();
    llama::prompt_template(settings.form);
    if (settings.retain_log.empty()) return;
    retain_ = eval::read_log(settings.retain_log);
    require_same_questions(*retain_, sets_.forget, protocol, cat(settings.split, " in ", settings.tofu.string()));
}

eval::EvalLog Evaluation::run(const llama::Llama& model, const llama::Tokenizer& tokenizer,
                              const std::string& label) const {
    return run(model, tokenizer, sets_, label, true);
}

eval::EvalLog Evaluation::run(const llama::Llama& model, const llama::Tokenizer& tokenizer, const eval::TofuSets& sets,
                              const std::string& label, bool generates) const {
    Progress progress(label, 1.0);
    eval::EvaluateOptions options;
    options.protocol = protocol();
    options.form = llama::prompt_template(settings_.form);
    options.max_new_tokens = settings_.max_new_tokens;
    options.generates = generates;
    options.progress = [&](double done) { progress.update(done); };
    return eval::evaluate(model, tokenizer, sets, options);
}

eval::SetScore Evaluation::answers(const llama::Llama& model, const llama::Tokenizer& tokenizer,
                                   const std::vector<eval::QaRow>& rows, const std::string& label) const {
    eval::TofuSets sets;
    sets.forget = rows;
    return run(model, tokenizer, sets, label, false).forget;
}

double Evaluation::utility(const llama::Llama& model, const llama::Tokenizer& tokenizer,
                           const std::string& label) const {
    eval::TofuSets sets = sets_;
    sets.forget.clear();
    sets.holdout.clear();
    const eval::Scores scores = score(run(model, tokenizer, sets, label, true));
    const auto found = scores.find("model_utility");
    require(found != scores.end(), "the evaluation gives no model utility");
    return found->second;
}

eval::Scores Evaluation::score(const eval::EvalLog& log) const {
    eval::ScoreOptions options;
    options.protocol = protocol();
    return eval::score(log, retain_log(), options);
}

fs::path Evaluation::heldout_file(const std::string& suffix) const {
    return eval::set_file(settings_.tofu, cat("holdout", settings_.split.substr(6), suffix));
}

void Evaluation::write(const fs::path& folder, const eval::EvalLog& log) const {
    eval::write_open_unlearning_log(folder, log, retain_log());
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
