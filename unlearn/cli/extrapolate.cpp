// uipe extrapolate.
#include <chrono>
#include <cmath>
#include <set>

#include "llama/weights.h"
#include "unlearn/alpha_rule.h"
#include "unlearn/cli/alpha_options.h"
#include "unlearn/cli/evaluation_options.h"
#include "unlearn/extrapolate.h"
#include "unlearn/number_text.h"
#include "unlearn/progress.h"
#include "unlearn/run_folder.h"

namespace uipe::unlearn {
namespace {

struct Arguments {
    fs::path base, unlearned, out;
    fs::path model_of_base;  // where `base` is an adapter whose run was told so
    std::int64_t epoch = -1;
    AlphaOptions alpha{{"1"}, "", 0.05};
    bool no_models = false;
    bool merge = false;
    bool overwrite = false;
    EvalSettings evaluation;
};

double number(const std::string& text) {
    char* end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    require_input(!text.empty() && *end == '\0' && std::isfinite(value), "--alpha ", text,
                  ": is no number; give numbers, or auto");
    return value;
}

std::vector<double> numbers(const std::vector<std::string>& texts) {
    std::vector<double> out;
    for (const std::string& text : texts) out.push_back(number(text));
    require_input(std::set<double>(out.begin(), out.end()).size() == out.size(), "--alpha names a number twice");
    return out;
}

/// Fills in what a run folder of `uipe unlearn` knows: base, epoch, evaluation, where to write.
/// `given`: the options of the command line, if any, which win.
void read_run(Arguments& a, const CLI::App* given) {
    const Json config = read_json(a.unlearned / "config.json");
    const auto text = [&](const char* key) {
        return config.contains(key) && config[key].is_string() ? config[key].get<std::string>() : std::string();
    };
    require_input(text("command") == "unlearn", a.unlearned.string(), ": is no run of uipe unlearn");
    if (a.base.empty()) {
        a.base = text("model");
        a.model_of_base = text("base");
    }
    // What the command line does not say itself is as the run had it.
    const auto take = [&](const char* flag, const char* key, auto& field) {
        if (!(given && given->get_option(flag)->count() > 0) && !text(key).empty()) field = text(key);
    };
    const auto take_number = [&](const char* flag, const char* key, std::int64_t& field) {
        if (!(given && given->get_option(flag)->count() > 0) && config.contains(key) && config[key].is_number_integer())
            field = config[key].get<std::int64_t>();
    };
    EvalSettings& e = a.evaluation;
    take("--tofu", "tofu", e.tofu);
    take("--split", "split", e.split);
    take("--retain-log", "retain_log", e.retain_log);
    take("--protocol", "protocol", e.protocol);
    take("--template", "template", e.form);
    take_number("--eval-rows", "eval_rows", e.max_rows);
    take_number("--eval-tokens", "eval_tokens", e.max_new_tokens);
    // At the end of a run as the run has it; a later command says for itself.
    if (!given) e.forget_only = config.contains("forget_only") && config["forget_only"] == true;
    if (a.out.empty()) a.out = a.unlearned / "extrapolations";
    if (a.epoch < 0) {
        const fs::path file = a.unlearned / "selection.json";
        require_input(fs::exists(file), file.string(),
                      ": is missing: the run has not ended, or had no --retain-log, or --forget-only; say which "
                      "--epoch to extrapolate");
        const Json selection = read_json(file);
        require_input(selection.contains("epoch") && selection["epoch"].is_number_integer(), file.string(),
                      ": has no \"epoch\"");
        a.epoch = selection["epoch"].get<std::int64_t>();
    }
    const fs::path epoch = a.unlearned / "epochs" / std::to_string(a.epoch);
    a.unlearned = epoch / (fs::exists(epoch / "adapter") ? "adapter" : "model");
}

std::string rounded(double x) {
    char text[32];
    std::snprintf(text, sizeof text, "%.3f", x);
    return text;
}

/// A choice of alpha and how it came about. JSON has no NaN: a figure that is none is null.
Json described(const AlphaChoice& c, const AlphaRule& rule, double budget, double seconds) {
    Json out{{"alpha", c.alpha},
             {"rule", rule.name},
             {"gap", rule.what},
             {"reason", c.reason},
             {"utility_budget", budget},
             {"utility_floor", c.utility_floor},
             {"evaluations", c.tried.size()},
             {"seconds", seconds},
             {"candidates", Json::array()}};
    for (const AlphaCandidate& t : c.tried)
        out["candidates"].push_back({{"alpha", t.alpha},
                                     {"gap", t.measured.gap},
                                     {"model_utility", t.measured.utility},
                                     {"within_budget", t.affordable}});
    return out;
}

/// A model folder, or an adapter's with the model it names.
struct Point {
    fs::path model;
    llama::Config config;
    llama::StateDict weights;
    std::optional<llama::Adapter> adapter;
    std::optional<tensor::DType> save_dtype = {};  // of the weights; none: as they are

    Point(const fs::path& folder, const fs::path& base) : model(base_of(folder, base)) {
        config = llama::read_config(model);
        weights = load_weights(model, config);
        if (!llama::is_adapter(folder)) return;
        adapter = llama::read_adapter(folder, config);
        adapter->config.base = fs::absolute(model).lexically_normal().string();
    }

    /// The adapter added to the weights.
    void merge() {
        if (!adapter) return;
        weights = llama::merged(weights, *adapter);
        for (auto& [name, w] : weights)
            w = w.to(tensor::accumulator_of(w.dtype()));  // what is added to them comes whole
        adapter.reset();
        save_dtype = tensor::DType::f32;
    }
};

class Extrapolation {
public:
    Extrapolation(const Arguments& a, const Common& common)
        : a_(a),
          dtype_(common.type()),
          device_(common.where()),
          initial_(a.base, a.model_of_base),
          unlearned_(a.unlearned, model_of_unlearned()) {
        if (!a.evaluation.tofu.empty()) evaluation_.emplace(a.evaluation);
        const bool one_model = unlearned_.adapter && fs::equivalent(unlearned_.model, initial_.model);
        require_input(one_model || !unlearned_.adapter || initial_.adapter, a.unlearned.string(), ": is an adapter of ",
                      unlearned_.model.string(), ", not of ", initial_.model.string(),
                      "; --base must be the model that was unlearned");
        const bool one_kind =
            one_model && (!initial_.adapter || initial_.adapter->config.targets == unlearned_.adapter->config.targets);
        if (!one_kind) {
            unlearned_.merge();
            initial_.merge();
        }
        if (!unlearned_.adapter) warn_about_bf16();
    }

    /// Makes the model of one alpha in `folder` and evaluates it. `whole_folder`: the folder is the model's own;
    /// otherwise the model goes to folder/model, or nowhere with --no-models.
    /// `chosen`: how alpha was, where it was not given.
    Json point(double alpha, const fs::path& folder, bool whole_folder, const Json& chosen = nullptr) {
        Point y = at(alpha);
        if (y.adapter && a_.merge) y.merge();
        Json result{{"alpha", alpha}, {"factor_from_base", 1.0 + alpha}, {"out", folder.string()}};
        if (a_.epoch >= 0) result["epoch"] = a_.epoch;
        std::optional<eval::EvalLog> log;
        if (evaluation_) {
            log = evaluate(y, cat(folder.string(), " evaluation"));
            const eval::Scores scores = evaluation_->score(*log);
            say(cat(folder.string(), ": ", score_line(scores)));
            for (const auto& [name, value] : scores) result["scores"][name] = value;
        }
        write_folder(folder, [&](const fs::path& to) {
            if (whole_folder || !a_.no_models) write(y, whole_folder ? to : to / (y.adapter ? "adapter" : "model"));
            if (log) evaluation_->write(to, *log);
            Json note = result;
            note.erase("scores");
            write_json(to / "extrapolation.json", note);
            if (!chosen.is_null()) write_json(to / "alpha.json", chosen);
        });
        return result;
    }

    /// Searches for the alpha that closes the gap of a rule; every candidate is made and measured in memory.
    Json choose(const AlphaOptions& options) {
        const auto start = std::chrono::steady_clock::now();
        AlphaGauge gauge(*evaluation_, options.rule);
        const llama::Tokenizer tokenizer = llama::Tokenizer::load(unlearned_.model);
        if (gauge.needs_base()) gauge.show_base(model_of(initial_), tokenizer);
        const AlphaChoice c = search_alpha(
            [&](double alpha) {
                const std::string label = cat("alpha ", number_text(alpha));
                AlphaMeasure m{std::nan(""), std::nan("")};
                try {
                    m = gauge.measure(model_of(at(alpha)), tokenizer, label);
                } catch (const llama::Diverged&) {
                    if (alpha == 0) throw;  // else it is too far, as the search finds
                }
                say(cat(label, ": gap ", rounded(m.gap), "  model utility ", rounded(m.utility)));
                return m;
            },
            options.utility_budget);
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        say(cat("chosen alpha ", number_text(c.alpha), " by ", gauge.rule().name, ": ", c.reason, " (", c.tried.size(),
                " evaluations, ", std::lround(seconds), " s)"));
        return described(c, gauge.rule(), options.utility_budget, seconds);
    }

    double update_share() const {
        const UpdateNorm n = unlearned_.adapter ? update_norm(unlearned_.weights, *unlearned_.adapter, initial_.adapter)
                                                : update_norm(unlearned_.weights, initial_.weights);
        return n.initial > 0 ? n.update / n.initial : 0.0;
    }

private:
    /// An adapter whose model is not where it says, for it was moved, is one of the model of the base.
    fs::path model_of_unlearned() const {
        return llama::is_adapter(a_.unlearned) && !named_base(a_.unlearned) ? initial_.model : fs::path();
    }

    /// The point of one alpha.
    Point at(double alpha) const {
        Point y = unlearned_;
        if (y.adapter)
            y.adapter = extrapolated(*y.adapter, initial_.adapter, alpha);
        else
            y.weights = extrapolated(y.weights, initial_.weights, alpha);
        llama::check_finite(y.adapter ? y.adapter->weights : y.weights, cat("--alpha ", alpha));
        return y;
    }

    llama::Llama model_of(const Point& y) const {
        llama::Llama model(y.config, llama::moved_weights(y.weights, dtype_, device_));
        if (y.adapter) model.set_adapter(*y.adapter);
        return model;
    }

    eval::EvalLog evaluate(const Point& y, const std::string& label) const {
        return evaluation_->run(model_of(y), llama::Tokenizer::load(y.model), label);
    }

    static void write(const Point& y, const fs::path& folder) {
        if (y.adapter)
            llama::write_adapter(folder, *y.adapter);
        else
            llama::write_model(folder, y.config, y.weights, llama::Tokenizer::load(y.model).file(), y.save_dtype);
    }

    void warn_about_bf16() const {
        if (unlearned_.weights.begin()->second.dtype() != tensor::DType::bf16) return;
        std::int64_t moved = 0;
        std::int64_t all = 0;
        for (const auto& [name, w] : unlearned_.weights) {
            const auto found = initial_.weights.find(name);
            if (found == initial_.weights.end() || found->second.shape() != w.shape())
                return;  // extrapolated() says it better
            const auto x = w.to(tensor::DType::f32).to_vector<float>();
            const auto y = found->second.to(tensor::DType::f32).to_vector<float>();
            for (std::size_t i = 0; i < x.size(); ++i) moved += x[i] != y[i] ? 1 : 0;
            all += w.numel();
        }
        say(cat("note: the unlearned weights are bf16: ", 100 * moved / std::max<std::int64_t>(1, all),
                " % of them differ from the base at all, so the direction is coarse; f32 folders (--save-dtype f32) "
                "keep it exact"));
    }

    const Arguments& a_;
    tensor::DType dtype_;
    tensor::Device device_;  // of evaluations; the sum itself waits for files, and stays with them on the CPU
    Point initial_, unlearned_;
    std::optional<Evaluation> evaluation_;
};

/// The folders of `alphas`, or of the one that is to be chosen, which has no name before it is.
std::vector<fs::path> folders_of(const Arguments& a, const std::vector<double>& alphas) {
    const std::string prefix = a.epoch >= 0 ? cat("epoch", a.epoch, "_alpha") : std::string("alpha");
    if (a.epoch < 0 && alphas.size() <= 1) return {a.out};
    if (alphas.empty()) return {a.out / (prefix + "-auto")};
    std::vector<fs::path> out;
    for (const double alpha : alphas) out.push_back(a.out / (prefix + number_text(alpha)));
    return out;
}

Json run(Arguments a, const Common& common, const CLI::App* given) {
    require_input(fs::exists(a.unlearned), a.unlearned.string(),
                  ": No such file or directory; --unlearned is the folder of a run of uipe unlearn, or of a model");
    if (fs::exists(a.unlearned / "epochs")) read_run(a, given);
    require_input(!a.base.empty(), "give --base DIR: the model before unlearning");
    require_input(!a.out.empty(), "give --out DIR");
    check(a.alpha, a.evaluation);
    // --out is the folder of the one model.
    const bool whole = a.epoch < 0 && a.alpha.alpha.size() == 1 && !(a.alpha.automatic() && a.no_models);
    std::vector<double> alphas;
    if (!a.alpha.automatic()) alphas = numbers(a.alpha.alpha);
    const std::vector<fs::path> folders = folders_of(a, alphas);
    for (const fs::path& folder : folders) require_free(folder, a.overwrite, "extrapolation.json");
    Extrapolation extrapolation(a, common);
    Json result{{"update_norm_share", extrapolation.update_share()}, {"points", Json::array()}};
    if (a.alpha.automatic()) {
        const Json chosen = extrapolation.choose(a.alpha);
        alphas.push_back(chosen["alpha"].get<double>());
        result["points"].push_back(extrapolation.point(alphas[0], folders[0], whole, chosen));
        result["chosen"] = chosen;
    } else {
        for (std::size_t i = 0; i < alphas.size(); ++i)
            result["points"].push_back(extrapolation.point(alphas[i], folders[i], whole));
    }
    if (prints_text(common))
        for (const Json& p : result["points"]) std::printf("%s\n", p["out"].get<std::string>().c_str());
    return result;
}

}  // namespace

void add_alpha_options(CLI::App& command, AlphaOptions& options, const std::string& what) {
    command.add_option("--alpha", options.alpha, what)->expected(1, 64);
    std::string rules;
    for (const AlphaRule& rule : alpha_rules()) rules += (rules.empty() ? "" : ", ") + rule.name;
    command.add_option("--alpha-rule", options.rule,
                       cat("What auto goes by: ", rules, "; default: quality with a retain log, else held-out rows"));
    command.add_option("--utility-budget", options.utility_budget,
                       "auto: the share of the model utility at alpha 0 that may be lost");
}

void check(const AlphaOptions& options, const EvalSettings& evaluation) {
    require_input(options.utility_budget >= 0 && options.utility_budget <= 1,
                  "--utility-budget must be a share between 0 and 1, not ", options.utility_budget);
    if (!options.automatic()) {
        require_input(options.rule.empty(), "--alpha-rule goes with --alpha auto");
        numbers(options.alpha);
        return;
    }
    require_input(!evaluation.forget_only, "--alpha auto minds the model utility; leave out --forget-only");
    require_input(!evaluation.tofu.empty(), "--alpha auto chooses by evaluation; give --tofu DIR and --split");
    AlphaGauge(Evaluation(evaluation), options.rule);
}

Json extrapolate_run(const fs::path& run_folder, std::int64_t epoch, const AlphaOptions& options,
                     const Common& common) {
    Arguments a;
    a.unlearned = run_folder;
    a.epoch = epoch;
    a.alpha = options;
    a.overwrite = true;
    return run(a, common, nullptr);
}

void add_extrapolate(CLI::App& app) {
    const auto a = std::make_shared<Arguments>();
    const auto common = std::make_shared<Common>();
    CLI::App* c = add_command(app, "extrapolate", "UIPE: go further along an unlearning update", common,
                              [a, common](const CLI::App& self) { return run(*a, *common, &self); });
    c->add_option("--base", a->base,
                  "Model or adapter folder before unlearning; default: what the run in --unlearned started from");
    c->add_option("--unlearned", a->unlearned, "Unlearned model or adapter folder, or a run of uipe unlearn")
        ->required();
    c->add_option("--epoch", a->epoch, "Epoch of the run; default: the selected one");
    add_alpha_options(*c, a->alpha, "One or more factors, or auto: theta_u + alpha (theta_u - theta_0)");
    c->add_option("--out", a->out, "One alpha: the model folder to write; several, or a run: a folder for each");
    c->add_flag("--overwrite", a->overwrite, "Replace the extrapolations there");
    c->add_flag("--merge", a->merge, "Of adapters, write models, with the product added; default: adapters");
    c->add_flag("--no-models", a->no_models, "Evaluate only; do not keep the models of several alphas");
    c->add_option("--template", a->evaluation.form, "Prompt of a QA row: llama2-chat, qa, plain")->group("Evaluation");
    add_evaluation_options(*c, a->evaluation);
    c->footer("Example: uipe extrapolate --unlearned runs/npo --alpha 0.25 0.5 1");
}

}  // namespace uipe::unlearn
