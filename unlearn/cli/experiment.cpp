// uipe experiment related, tradeoff, alpha: the paper's experiments.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <set>

#include "llama/prompt_template.h"
#include "unlearn/cli/command.h"
#include "unlearn/experiment/knowledge.h"
#include "unlearn/experiment/related.h"
#include "unlearn/experiment/tradeoff.h"
#include "unlearn/run_folder.h"
#include "unlearn/training.h"

namespace uipe::unlearn {
namespace {

/// Words behind every command of an experiment.
Words common_words(const Common& c) {
    return {"--threads", std::to_string(c.threads), "--dtype", c.dtype, "--device", c.device};
}

/// A path from the root on, which the cache knows for a file or folder that may change; an empty one stays empty.
fs::path whole(const fs::path& path) { return path.empty() ? path : fs::absolute(path).lexically_normal(); }

/// Runs an experiment and prints its page. Its folder is held meanwhile.
template <class Options>
Json page_of(const Options& options, fs::path (*run)(const Options&), const Common& common) {
    require_input(!options.out.empty(), "--out must name a folder");
    const bool made = fs::create_directories(options.out);
    const std::shared_ptr<void> lock = lock_folder(options.out);
    fs::path page;
    try {
        page = run(options);
    } catch (const Stopped& e) {
        throw Error(cat(e.what(), "; the same command goes on"));
    } catch (const InputError& e) {
        std::error_code ignored;
        if (made) fs::remove(options.out, ignored);  // unless something is in it
        if (std::string(e.what()).find((options.out / "runs").string()) == std::string::npos) throw;
        throw InputError(cat(e.what(), "; delete that folder of runs/, and the same command makes it again"));
    }
    if (prints_text(common)) std::printf("%s\n", page.c_str());
    return Json{{"page", page.string()}};
}

/// The command as it was given.
std::string command_text(const CLI::App& command) {
    std::string out = cat("uipe experiment ", command.get_name());
    for (const CLI::Option* option : command.get_options()) {
        if (option->count() == 0) continue;
        out += " " + option->get_name();
        if (option->get_expected_max() > 0)
            for (const std::string& value : option->results()) out += " " + value;
    }
    return out;
}

/// InputError for a rate that no step can be made with.
void check_rate(const char* name, double rate) {
    require_input(std::isfinite(rate) && rate > 0, name, " must be above 0, not ", rate);
}

/// InputError for a width that does not part into the four heads of the model made.
void check_width(std::int64_t width) {
    require_input(width % 8 == 0, "--width must be a multiple of 8 (four heads of an even size), not ", width);
}

/// InputError for factors that are no ladder of UIPE; sorts them.
void check_alphas(std::vector<double>& alphas, bool zero) {
    for (const double alpha : alphas) require_input(std::isfinite(alpha), "--alpha: ", alpha, " is no number");
    std::sort(alphas.begin(), alphas.end());
    require_input(std::adjacent_find(alphas.begin(), alphas.end()) == alphas.end(), "--alpha names a number twice");
    require_input(zero || alphas.front() > 0, "--alpha must be above 0, not ", alphas.front(),
                  "; 0 is the epoch itself, which is there anyway");
}

/// What --quick sets: options that are not given.
class Quick {
public:
    explicit Quick(const CLI::App& command) : command_(command) {}
    template <class T>
    void operator()(const char* option, T& value, const std::type_identity_t<T>& quick) const {
        if (command_.get_option(option)->count() == 0) value = quick;
    }

private:
    const CLI::App& command_;
};

void make_quick(RelatedOptions& o, const Quick& set) {
    set("--related-people", o.related_people, 20);
    set("--layers", o.layers, 2);
    set("--pretraining-epochs", o.pretraining_epochs, 1);
    set("--fine-epochs", o.fine_epochs, 2);
    set("--epochs", o.epochs, 3);
    set("--pairs", o.pairs, 4);
    set("--alpha", o.alphas, {0.5, 1});
}

/// InputError for what would stop the experiment long after its start.
void check(RelatedOptions& o) {
    unlearning_objective(o.method);
    llama::prompt_template(o.form);
    check_alphas(o.alphas, false);
    check_rate("--lr", o.lr);
    check_rate("--fine-lr", o.fine_lr);
    check_width(o.width);
    require_input(o.uipe_epoch <= o.epochs, "--uipe-epoch ", o.uipe_epoch, " is behind the last of --epochs ",
                  o.epochs);
    require_input(o.k1.empty() == o.k2.empty(), "give --k1 and --k2 both: row i of K2 implies row i of K1");
    require_input(o.model.empty() == o.tofu.empty(), "--model and --tofu go together: utility is taken on TOFU's sets");
    require_input(o.model.empty() || !o.k1.empty(), "--model needs --k1 and --k2: facts that it can learn");
    if (!o.k1.empty()) check_knowledge(o.k1, o.k2);
}

void add_related(CLI::App& app) {
    const auto o = std::make_shared<RelatedOptions>();
    const auto common = std::make_shared<Common>();
    const auto beta = std::make_shared<double>(0.1);
    const auto quick = std::make_shared<bool>(false);
    o->out = "runs/related";
    CLI::App* c = add_command(app, "related", "Table 1, figures 2, 3 and 8: what related knowledge does to unlearning",
                              common, [=](const CLI::App& self) {
                                  o->seed = common->seed;
                                  o->common = common_words(*common);
                                  o->command = command_text(self);
                                  if (self.get_option("--beta")->count() > 0)
                                      o->method_options = {"--beta", number_text(*beta)};
                                  require_input(std::isfinite(*beta), "--beta must be a number, not ", *beta);
                                  for (fs::path* path : {&o->model, &o->tofu, &o->k1, &o->k2}) *path = whole(*path);
                                  if (*quick) make_quick(*o, Quick(self));
                                  check(*o);
                                  return page_of(*o, run_related, *common);
                              });
    c->add_option("--out", o->out, "Folder for related.html, .json, .csv and the runs, which are kept and used again");
    c->add_flag("--quick", *quick, "Few epochs of a smaller model: shows that all works, not what it teaches");
    c->add_option("--seeds", o->seeds, "Repeat with so many seeds from --seed on; 95 % intervals")
        ->check(CLI::Range(1, 1000));
    c->add_option("--model", o->model, "Model folder to teach K1 and K2; default: a small one, made with a world");
    c->add_option("--tofu", o->tofu, "With --model: folder of TOFU's sets, for utility");
    c->add_option("--k1", o->k1, "Facts to forget, rows as in forgetXX_perturbed; default: the world's");
    c->add_option("--k2", o->k2, "Facts from which they can be inferred, row by row");
    c->add_option("--method", o->method, "Of unlearning");
    c->add_option("--beta", *beta, "NPO's inverse temperature");
    c->add_option("--fine-epochs", o->fine_epochs, "Epochs of learning K1 and K2")->check(CLI::Range(1, 100000));
    c->add_option("--fine-lr", o->fine_lr, "Learning rate of it");
    c->add_option("--epochs", o->epochs, "Epochs of unlearning")->check(CLI::Range(1, 100000));
    c->add_option("--lr", o->lr, "Learning rate of it");
    c->add_option("--batch-size", o->batch_size, "Rows of K1 a step of unlearning")->check(CLI::Range(1, 100000));
    c->add_option("--lora-rank", o->lora_rank, "An adapter on q_proj and v_proj instead of all weights (the paper: 4)")
        ->check(CLI::Range(0, 4096));
    c->add_option("--alpha", o->alphas, "Factors of UIPE")->expected(1, 64);
    c->add_option(
         "--uipe-epoch", o->uipe_epoch,
         "Epoch of M1 to extrapolate; 0: the last before K1's forget quality exceeds 0.05, or the middle one where "
         "it never does")
        ->check(CLI::Range(0, 100000));
    c->add_option("--pairs", o->pairs, "Pairs of rows whose gradients are compared")->check(CLI::Range(1, 100000));
    c->add_option("--eval-rows", o->eval_rows, "Rows of each utility set at most; 0: all")
        ->check(CLI::Range(0, 1000000));
    c->add_option("--eval-tokens", o->eval_tokens, "New tokens of each generation")->check(CLI::Range(1, 100000));
    c->add_option("--template", o->form, "Prompt of a QA row: llama2-chat, qa, plain");
    const std::string group = "The world and model made without --model";
    c->add_option("--related-people", o->related_people, "People on whom the rules show")
        ->check(CLI::Range(1, 400))
        ->group(group);
    c->add_option("--width", o->width, "Width of the model")->check(CLI::Range(8, 8192))->group(group);
    c->add_option("--layers", o->layers, "Layers of the model")->check(CLI::Range(1, 128))->group(group);
    c->add_option("--pretraining-epochs", o->pretraining_epochs, "Epochs over its text")
        ->check(CLI::Range(1, 100000))
        ->group(group);
}

void make_quick(TradeoffOptions& o, const Quick& set) {
    set("--width", o.width, 64);
    set("--layers", o.layers, 2);
    set("--pretraining-epochs", o.pretraining_epochs, 1);
    set("--fine-epochs", o.fine_epochs, 3);
    set("--epochs", o.epochs, 2);
    set("--alpha", o.alphas, {0.5, 1});
    set("--eval-rows", o.eval_rows, 8);
    set("--eval-tokens", o.eval_tokens, 16);
}

/// The same for trials; `zero`: whether --alpha may be 0.
void check(TradeoffOptions& o, bool zero) {
    for (const std::string& method : o.methods) unlearning_objective(method);
    llama::prompt_template(o.form);
    require_input(std::set<std::string>(o.methods.begin(), o.methods.end()).size() == o.methods.size(),
                  "--methods names a method twice");
    require_input(std::set<std::string>(o.splits.begin(), o.splits.end()).size() == o.splits.size(),
                  "a split is named twice");
    check_alphas(o.alphas, zero);
    check_rate("--lr", o.lr);
    check_width(o.width);
    require_input(std::isfinite(o.beta), "--beta must be a number, not ", o.beta);
    require_input(o.model.empty() == o.tofu.empty(), "--model and --tofu go together: the sets that the model learned");
    require_input(o.retain_logs.size() == (o.model.empty() ? 0 : o.splits.size()),
                  "--retain-log goes with --model, one a split in their order: there are ", o.splits.size(),
                  " splits and ", o.retain_logs.size(), " logs");
    const std::set<std::string> known{"forget01", "forget05", "forget10"};
    for (const std::string& split : o.splits)
        require_input(!o.model.empty() || known.contains(split), "no split '", split,
                      "' in the world made; there are forget01, forget05, forget10");
}

/// What tradeoff and alpha have in common, which is all but the splits.
void add_trial_options(CLI::App* c, TradeoffOptions& o) {
    c->add_option("--out", o.out, "Folder for the page, .json, .csv and the runs, which are kept and used again");
    c->add_option("--seeds", o.seeds, "Repeat with so many seeds from --seed on; 95 % intervals")
        ->check(CLI::Range(1, 1000));
    c->add_option("--model", o.model,
                  "Model folder that knows the forget sets; default: a small one, made with a world");
    c->add_option("--tofu", o.tofu, "With --model: folder of TOFU's sets");
    c->add_option("--retain-log", o.retain_logs, "With --model: retain models' logs, one a split, in order")
        ->expected(1, 64);
    c->add_option("--methods", o.methods, "Of unlearning")->expected(1, 64);
    c->add_option("--beta", o.beta,
                  "NPO's inverse temperature; 0: NPO's own, or 1 without --model, where answers are short")
        ->check(CLI::Range(0.0, 1e9));
    c->add_option("--epochs", o.epochs, "Epochs among which UIPE's is chosen; runs go on as long again")
        ->check(CLI::Range(1, 100000));
    c->add_option("--lr", o.lr, "Learning rate");
    c->add_option("--batch-size", o.batch_size, "Rows a step; 0: a quarter of the forget set")
        ->check(CLI::Range(0, 100000));
    c->add_option("--alpha", o.alphas, "Factors of UIPE")->expected(1, 64);
    c->add_option("--eval-rows", o.eval_rows, "Rows of each utility set at most; 0: all")
        ->check(CLI::Range(0, 1000000));
    c->add_option("--eval-tokens", o.eval_tokens, "New tokens of each generation")->check(CLI::Range(1, 100000));
    c->add_option("--template", o.form, "Prompt of a QA row: llama2-chat, qa, plain");
    const std::string group = "The world and models made without --model";
    c->add_option("--width", o.width, "Width of the models")->check(CLI::Range(8, 8192))->group(group);
    c->add_option("--layers", o.layers, "Layers of the models")->check(CLI::Range(1, 128))->group(group);
    c->add_option("--pretraining-epochs", o.pretraining_epochs, "Epochs over its text")
        ->check(CLI::Range(1, 100000))
        ->group(group);
    c->add_option("--fine-epochs", o.fine_epochs, "Epochs of learning the authors")
        ->check(CLI::Range(1, 100000))
        ->group(group);
}

/// An experiment that goes by Trials; `zero`: whether --alpha may be 0.
CLI::App* add_trials(CLI::App& app, const std::string& name, const std::string& what,
                     const std::shared_ptr<TradeoffOptions>& o, fs::path (*run)(const TradeoffOptions&), bool zero) {
    const auto common = std::make_shared<Common>();
    const auto quick = std::make_shared<bool>(false);
    CLI::App* c = add_command(app, name, what, common, [=](const CLI::App& self) {
        o->seed = common->seed;
        o->common = common_words(*common);
        o->command = command_text(self);
        for (fs::path* path : {&o->model, &o->tofu}) *path = whole(*path);
        for (std::string& log : o->retain_logs) log = whole(log);
        if (*quick) make_quick(*o, Quick(self));
        check(*o, zero);
        return page_of(*o, run, *common);
    });
    c->add_flag("--quick", *quick, "Few epochs of a smaller model: shows that all works, not what it teaches");
    add_trial_options(c, *o);
    return c;
}

void add_tradeoff(CLI::App& app) {
    const auto o = std::make_shared<TradeoffOptions>();
    CLI::App* c = add_trials(app, "tradeoff", "Figure 6: forget quality against utility, UIPE against training on", o,
                             run_tradeoff, false);
    c->add_option("--splits", o->splits, "Forget sets")->expected(1, 64);
}

void add_alpha(CLI::App& app) {
    const auto o = std::make_shared<TradeoffOptions>();
    o->alphas = {0, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4};
    o->splits = {"forget01"};
    CLI::App* c = add_trials(app, "alpha", "Figure 7: forget quality and utility as alpha grows", o, run_alpha, true);
    c->add_option("--split", o->splits.front(), "Forget set");
}

}  // namespace

void add_experiment(CLI::App& app) {
    CLI::App* c = app.add_subcommand("experiment", "The paper's experiments: related, tradeoff, alpha");
    c->require_subcommand(1);
    add_related(*c);
    add_tradeoff(*c);
    add_alpha(*c);
}

}  // namespace uipe::unlearn
