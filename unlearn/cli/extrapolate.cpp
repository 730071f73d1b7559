// uipe extrapolate.
#include <charconv>
#include <cmath>
#include <set>

#include "llama/weights.h"
#include "unlearn/cli/command.h"
#include "unlearn/cli/evaluation_options.h"
#include "unlearn/extrapolate.h"
#include "unlearn/progress.h"
#include "unlearn/run_folder.h"
#include "unlearn/selection.h"

namespace uipe::unlearn {
namespace {

struct Arguments {
    fs::path base, unlearned, out;
    fs::path model_of_base;  // where `base` is an adapter whose run was told so
    std::int64_t epoch = -1;
    std::vector<std::string> alpha{"1"};
    double utility_floor = 0.9;
    bool no_models = false;
    bool merge = false;
    bool overwrite = false;
    EvalSettings evaluation;
};

// "auto" tries these and takes the best by the rule of epoch selection.
const std::vector<double> ladder{0.25, 0.5, 1.0, 2.0, 4.0};

/// The shortest text that reads back as the number: 0.5, 1, 0.25.
std::string short_text(double x) {
    char text[64];
    return {text, std::to_chars(text, text + sizeof text, x).ptr};
}

double number(const std::string& text) {
    char* end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    require_input(!text.empty() && *end == '\0' && std::isfinite(value), "--alpha ", text,
                  ": is no number; give numbers, or auto");
    return value;
}

/// Fills in what a run folder of `uipe unlearn` knows: base, epoch, evaluation, where to write.
void read_run(Arguments& a, const CLI::App& given) {
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
        if (given.get_option(flag)->count() == 0 && !text(key).empty()) field = text(key);
    };
    const auto take_number = [&](const char* flag, const char* key, std::int64_t& field) {
        if (given.get_option(flag)->count() == 0 && config.contains(key) && config[key].is_number_integer())
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
    if (a.out.empty()) a.out = a.unlearned / "extrapolations";
    if (a.epoch < 0) {
        const fs::path file = a.unlearned / "selection.json";
        require_input(fs::exists(file), file.string(),
                      ": is missing: the run has not ended or had no --retain-log; say which --epoch to extrapolate");
        const Json selection = read_json(file);
        require_input(selection.contains("epoch") && selection["epoch"].is_number_integer(), file.string(),
                      ": has no \"epoch\"");
        a.epoch = selection["epoch"].get<std::int64_t>();
    }
    const fs::path epoch = a.unlearned / "epochs" / std::to_string(a.epoch);
    a.unlearned = epoch / (fs::exists(epoch / "adapter") ? "adapter" : "model");
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
    Json point(double alpha, const fs::path& folder, bool whole_folder) {
        Point y = unlearned_;
        if (y.adapter) {
            y.adapter = extrapolated(*y.adapter, initial_.adapter, alpha);
            llama::check_finite(y.adapter->weights, cat("--alpha ", alpha));
            if (a_.merge) y.merge();
        } else {
            y.weights = extrapolated(y.weights, initial_.weights, alpha);
            llama::check_finite(y.weights, cat("--alpha ", alpha));
        }
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
        });
        return result;
    }

    /// The model utility of the unlearned model itself.
    double utility_before() const {
        const eval::Scores scores = evaluation_->score(evaluate(unlearned_, "the unlearned model, evaluation"));
        const auto found = scores.find("model_utility");
        require(found != scores.end(), "the evaluation gives no model utility to choose by");
        return found->second;
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

    eval::EvalLog evaluate(const Point& y, const std::string& label) const {
        llama::Llama model(y.config, llama::moved_weights(y.weights, dtype_, device_));
        if (y.adapter) model.set_adapter(*y.adapter);
        return evaluation_->run(model, llama::Tokenizer::load(y.model), label);
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

Json run(Arguments a, const Common& common, const CLI::App& given) {
    if (fs::exists(a.unlearned / "epochs")) read_run(a, given);
    require_input(!a.base.empty(), "give --base DIR: the model before unlearning");
    require_input(!a.out.empty(), "give --out DIR");
    const bool choose = a.alpha == std::vector<std::string>{"auto"};
    std::vector<double> alphas = ladder;
    if (!choose) {
        alphas.clear();
        for (const std::string& text : a.alpha) alphas.push_back(number(text));
        require_input(std::set<double>(alphas.begin(), alphas.end()).size() == alphas.size(),
                      "--alpha names a number twice");
    }
    require_input(!choose || (!a.evaluation.tofu.empty() && !a.evaluation.retain_log.empty()),
                  "--alpha auto chooses by evaluation; give --tofu DIR, --split and --retain-log FILE");
    const std::string prefix = a.epoch >= 0 ? cat("epoch", a.epoch, "_alpha") : std::string("alpha");
    const bool one = alphas.size() == 1 && a.epoch < 0;
    const auto folder = [&](double alpha) { return one ? a.out : a.out / (prefix + short_text(alpha)); };
    for (const double alpha : alphas) require_free(folder(alpha), a.overwrite, "extrapolation.json");
    Extrapolation extrapolation(a, common);
    const double before = choose ? extrapolation.utility_before() : 0.0;
    Json result{{"update_norm_share", extrapolation.update_share()}, {"points", Json::array()}};
    for (const double alpha : alphas) result["points"].push_back(extrapolation.point(alpha, folder(alpha), one));
    if (choose) {
        std::vector<Candidate> candidates;
        for (const Json& p : result["points"])
            candidates.push_back({short_text(p["alpha"].get<double>()), p["scores"]["forget_quality"].get<double>(),
                                  p["scores"]["model_utility"].get<double>()});
        const Selection s = select(candidates, a.utility_floor * before);
        result["chosen"] = result["points"][s.index];
        result["reason"] = s.reason;
        say(cat("chosen alpha ", candidates[s.index].name, " (", s.reason,
                "); chosen on the test metric itself, as the paper does"));
    }
    if (prints_text(common))
        for (const Json& p : result["points"]) std::printf("%s\n", p["out"].get<std::string>().c_str());
    return result;
}

}  // namespace

void add_extrapolate(CLI::App& app) {
    const auto a = std::make_shared<Arguments>();
    const auto common = std::make_shared<Common>();
    CLI::App* c = add_command(app, "extrapolate", "UIPE: go further along an unlearning update", common,
                              [a, common](const CLI::App& self) { return run(*a, *common, self); });
    c->add_option("--base", a->base,
                  "Model or adapter folder before unlearning; default: what the run in --unlearned started from");
    c->add_option("--unlearned", a->unlearned, "Unlearned model or adapter folder, or a run of uipe unlearn")
        ->required();
    c->add_option("--epoch", a->epoch, "Epoch of the run; default: the selected one");
    c->add_option("--alpha", a->alpha, "One or more factors, or auto: theta_u + alpha (theta_u - theta_0)")
        ->expected(1, 64);
    c->add_option("--out", a->out, "One alpha: the model folder to write; several, or a run: a folder for each");
    c->add_option("--utility-floor", a->utility_floor, "auto: keeps this share of the unlearned model's utility");
    c->add_flag("--overwrite", a->overwrite, "Replace the extrapolations there");
    c->add_flag("--merge", a->merge, "Of adapters, write models, with the product added; default: adapters");
    c->add_flag("--no-models", a->no_models, "Evaluate only; do not keep the models of several alphas");
    c->add_option("--template", a->evaluation.form, "Prompt of a QA row: llama2-chat, qa, plain")->group("Evaluation");
    add_evaluation_options(*c, a->evaluation);
    c->footer("Example: uipe extrapolate --unlearned runs/npo --alpha 0.25 0.5 1");
}

}  // namespace uipe::unlearn
