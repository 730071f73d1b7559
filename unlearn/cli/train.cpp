// uipe train, uipe unlearn.
#include <algorithm>
#include <cmath>
#include <sstream>

#include "tensor/comm/launch.h"
#include "unlearn/cli/alpha_options.h"
#include "unlearn/cli/evaluation_options.h"
#include "unlearn/cli/lora_options.h"
#include "unlearn/cli/objective_options.h"
#include "unlearn/cli/optimizer_options.h"
#include "unlearn/progress.h"
#include "unlearn/training.h"

namespace uipe::unlearn {
namespace {

struct TrainArguments {
    TrainingJob job;
    std::string schedule = "linear";
    std::string save_dtype = "f32";
    std::string recompute = "norm";
    std::string method;
    std::string preset;
    LoraArguments lora;
    AlphaOptions alpha;  // of unlearning: how its outcome is extrapolated; empty: not
    ObjectiveArguments objective;
    OptimizerArguments optimizer;
    bool no_shuffle = false;
    bool no_eval = false;
    bool save_epochs = false;
    bool save_last = false;
};

tensor::DType dtype_named(const std::string& flag, const std::string& name) {
    if (name == "bf16") return tensor::DType::bf16;
    require_input(name == "f32", "unknown ", flag, " '", name, "'; known: f32, bf16");
    return tensor::DType::f32;
}

/// Counts are bounded far above any use, so that no product of two of them overflows.
void require_at_least(const char* flag, double value, double least) {
    constexpr double most = 1e9;
    require_input(value >= least && value <= most, flag, " must be between ", least, " and ", most, ", not ", value);
}

void add_training_options(CLI::App& c, TrainArguments& a) {
    TrainingJob& job = a.job;
    TrainerOptions& t = job.trainer;
    c.add_option("--out", job.out, "Run folder to write")->required();
    c.add_option("--epochs", t.epochs, "Passes over the data");
    c.add_option("--batch-size", t.batch_size, "Rows an optimizer step");
    c.add_option("--micro-batch", t.micro_batch, "Rows a forward pass; less memory, same result; 0: the batch");
    c.add_option("--lr", t.lr, "Learning rate at its peak");
    c.add_option("--schedule", a.schedule, "constant, linear or cosine, after the warm-up");
    c.add_option("--warmup-epochs", t.warmup_epochs, "Epochs over which the rate rises from 0 (at the first step)");
    c.add_option("--weight-decay", t.adamw.weight_decay, "AdamW's decay of matrices");
    c.add_option("--adam-beta1", t.adamw.beta1, "AdamW's first moment");
    c.add_option("--adam-beta2", t.adamw.beta2, "AdamW's second moment");
    add_optimizer_options(c, a.optimizer);
    c.add_option("--max-grad-norm", t.max_grad_norm, "Clips the gradient's norm; 0: never");
    c.add_option("--max-length", job.max_length, "Tokens of a row at most");
    c.add_option("--template", job.form, "Prompt of a QA row: llama2-chat, qa, plain");
    c.add_flag("--no-shuffle", a.no_shuffle, "Visit the rows in file order");
    c.add_flag("--no-eval", a.no_eval, "Do not evaluate, even with --tofu");
    c.add_option("--zero", job.zero,
                 "Among several ranks, keep once: 1 the optimizer's state, 2 also gradients, 3 also weights");
    c.add_flag(
        "--fixed-order", job.fixed_order,
        "Among more than two GPUs, add numbers in the order of ranks, a little slower; ranks on CPUs always do. Then "
        "all stages of --zero give the same bits where a step is one pass of each rank, else 0 and 1, and 2 and 3");
    c.add_option(
         "--recompute", a.recompute,
         "What the backward pass computes again to save memory; no bit of a result changes. Bytes kept a token and "
         "layer, s a number's (f32 4, bf16 2): none: (4C + 2(H+K)D + 3F)s + 4(H+2); norm, without this option: (2C + "
         "2(H+K)D + 2F)s + 4(H+2); mlp: (2C + 2(H+K)D)s + 4(H+1); block, by the option alone: Cs. auto: the least that "
         "fits")
        ->expected(0, 1)
        ->option_text("[TEXT]")
        ->default_str("block");
    c.add_option("--memory", job.memory, "What the run may take, such as 80G; without: what is free");
    c.add_option("--save-dtype", a.save_dtype, "Saved weights: f32 (exact masters) or bf16 (half the size)");
    c.add_option("--eval-every", job.eval_every, "Evaluate after every so many epochs; 0: after the last")
        ->group("Evaluation");
    add_evaluation_options(c, job.evaluation);
    c.add_option(
         "--profile", job.profile,
         "Measure where time goes and print a table at the end: of so many steps, or of all (0); without the first two")
        ->expected(0, 1)
        ->option_text("[INT]")
        ->default_str("0");
    add_lora_options(c, a.lora);
    c.add_option("--preset", a.preset,
                 "paper-lora: the UIPE paper's adapter, of rank 4 on q_proj and v_proj, its learning rate and batch of "
                 "4; what is given beside it wins")
        ->group("LoRA");
    const std::string group = "Stopping and resuming";
    c.add_flag("--resume", job.resume,
               "Go on with the run in --out, which SIGINT, SIGTERM or SIGUSR1 stops at a checkpoint (of these mpirun "
               "hands the last alone to its ranks and waits: kill -USR1)")
        ->group(group);
    c.add_flag("--overwrite", job.overwrite, "Replace the run in --out")->group(group);
    c.add_option("--checkpoint-steps", job.checkpoint_steps, "Also checkpoint after every so many steps")->group(group);
    c.add_option("--keep", job.keep, "Checkpoints to keep, the newest")->group(group);
    c.add_option("--stop-after", job.stop_after, "Stop, resumable, after so many steps of this call")->group(group);
}

void finish_arguments(TrainArguments& a, const Common& common) {
    TrainerOptions& t = a.job.trainer;
    require_at_least("--epochs", static_cast<double>(t.epochs), 1);
    require_at_least("--batch-size", static_cast<double>(t.batch_size), 1);
    require_at_least("--micro-batch", static_cast<double>(t.micro_batch), 0);
    require_at_least("--lr", t.lr, 0);
    require_at_least("--warmup-epochs", t.warmup_epochs, 0);
    require_at_least("--weight-decay", t.adamw.weight_decay, 0);
    require_at_least("--max-grad-norm", t.max_grad_norm, 0);
    require_at_least("--replay-ratio", t.replay_ratio, 0);
    require_at_least("--utility-floor", a.job.utility_floor, 0);
    require_at_least("--max-length", static_cast<double>(a.job.max_length), 2);
    require_at_least("--eval-every", static_cast<double>(a.job.eval_every), 0);
    require_at_least("--keep", static_cast<double>(a.job.keep), 1);
    require_input(a.job.zero >= 0 && a.job.zero <= 3, "--zero must be 0, 1, 2 or 3, not ", a.job.zero);
    require_at_least("--checkpoint-steps", static_cast<double>(a.job.checkpoint_steps), 0);
    require_at_least("--profile", static_cast<double>(a.job.profile), -1);
    require_at_least("--stop-after", static_cast<double>(a.job.stop_after), 0);
    for (const double beta : {t.adamw.beta1, t.adamw.beta2})
        require_input(beta >= 0 && beta < 1, "--adam-beta1 and --adam-beta2 must be in [0, 1), not ", beta);
    a.optimizer.apply(t.adamw);
    t.schedule = nn::schedule_named(a.schedule);
    a.job.recompute.reset();
    if (a.recompute != "auto") a.job.recompute = llama::recompute_named(a.recompute);
    t.shuffle = !a.no_shuffle;
    t.seed = common.seed;
    a.job.dtype = common.type();
    a.job.device = common.where();
    a.job.save_dtype = dtype_named("--save-dtype", a.save_dtype);
    a.job.evaluation.form = a.job.form;
    if (a.no_eval) a.job.evaluation.tofu.clear();
    a.job.lora = a.lora.finished();
    require_input(a.job.lora.rank == 0 || !a.job.model.empty(),
                  "--lora-rank needs --model DIR: an adapter is of use beside a saved model only");
}

/// Every value of the run, and what it runs on.
std::string config_text(const CLI::App& command, const TrainingJob& job) {
    Json config = config_of(command);
    if (job.objective->unlearns) {
        const Json used = json_of(job.trainer.objective);
        for (const auto& [name, value] : used.items())
            if (config[name] != value) config[name] = value;  // a default of the method's own
        if (job.objective->layer) config["rmu_layer"] = job.trainer.objective.rmu_layer;
    }
    config["ranks"] = std::max(1, tensor::launched().ranks);
    config["recompute"] = job.recompute ? llama::name_of(*job.recompute) : "auto";  // "norm" without the option
    config["device_name"] = tensor::description(job.device);
    return config.dump();
}

Json result_json(const TrainingJob& job, const TrainingResult& r) {
    Json out{{"out", job.out.string()},
             {"step", r.step},
             {"steps", r.steps},
             {"loss", r.loss},
             {"tok_per_s", r.tokens_per_second}};
    if (!r.model.empty()) out["model"] = r.model.string();
    for (const auto& [name, value] : r.scores) out["scores"][name] = value;
    return out;
}

/// forget05 -> retain95.
std::string retain_of(const std::string& split) {
    const std::string digits = split.substr(std::min<std::size_t>(6, split.size()));
    const bool ok = split.starts_with("forget") && digits.size() == 2 &&
                    std::isdigit(static_cast<unsigned char>(digits[0])) &&
                    std::isdigit(static_cast<unsigned char>(digits[1]));
    require_input(ok, "--split ", split, ": give --forget and --retain files, or a split such as forget10");
    const int rest = 100 - std::stoi(digits);
    return cat("retain", rest < 10 ? "0" : "", rest);
}

/// What must hold for a run to be extrapolated at its end, asked before its start. `tofu`: also with --no-eval.
void check_extrapolation(const TrainArguments& a, const fs::path& tofu) {
    EvalSettings evaluation = a.job.evaluation;
    evaluation.tofu = tofu;
    check(a.alpha, evaluation);
    require_input(tensor::launched().ranks == 1,
                  "--alpha is work for one process; leave it out, and run uipe extrapolate --unlearned ",
                  a.job.out.string(), " after this");
    require_input(!a.save_last || a.no_eval || evaluation.retain_log.empty(),
                  "--save-last may leave no model of the selected epoch for --alpha to extrapolate; leave one out");
}

/// Extrapolates the selected epoch, or the last where none is selected.
Json extrapolate_outcome(const TrainArguments& a, const Common& common) {
    const bool selected = fs::exists(a.job.out / "selection.json");
    if (!selected) say(cat(a.job.out.string(), ": extrapolating the last epoch"));
    return extrapolate_run(a.job.out, selected ? -1 : a.job.trainer.epochs, a.alpha, common);
}

}  // namespace

Json preset_options(const std::string& command, const std::string& preset) {
    require_input(preset == "paper-lora", "unknown preset '", preset, "'; known: paper-lora");
    return {{"lora_rank", 4},
            {"lora_targets", "q_proj,v_proj"},
            {"lr", command == "unlearn" ? 5e-5 : 1e-4},
            {"batch_size", 4}};
}

void add_train(CLI::App& app) {
    const auto a = std::make_shared<TrainArguments>();
    const auto common = std::make_shared<Common>();
    a->job.objective = &fine_tuning();
    a->job.eval_every = 0;
    CLI::App* c = add_command(
        app, "train", "Pretrain on text, or fine-tune on questions and answers", common,
        [a, common](const CLI::App& self) {
            finish_arguments(*a, *common);
            require_input(a->job.model.empty() != a->job.init.empty(), "give either --model DIR or --init config.json");
            require_input(a->job.init.empty() || !a->job.tokenizer.empty(), "--init needs --tokenizer FILE");
            a->job.save_all = a->save_epochs;
            return result_json(a->job, run_training(a->job, config_text(self, a->job)));
        });
    c->add_option("--model", a->job.model, "Model folder to start from; an adapter's, to train that on");
    add_base_option(*c, a->job.base);
    c->add_option("--init", a->job.init, "config.json of a model with fresh weights");
    c->add_option("--tokenizer", a->job.tokenizer, "tokenizer.model, with --init");
    c->add_option("--data", a->job.data, "Rows {question, answer} or {text} (JSON, JSONL), or lines (.txt)")
        ->required();
    c->add_option("--replay", a->job.replay, "Rows mixed into each epoch so that they are not forgotten");
    c->add_option("--replay-ratio", a->job.trainer.replay_ratio, "Replayed rows for each row of data");
    c->add_flag("--save-epochs", a->save_epochs, "Keep the model of every epoch");
    add_training_options(*c, *a);
    c->footer(
        "Example: uipe train --init config.json --tokenizer tokenizer.model --data pretrain.jsonl --lr 3e-3 --out "
        "runs/base");
}

void add_unlearn(CLI::App& app) {
    const auto a = std::make_shared<TrainArguments>();
    const auto common = std::make_shared<Common>();
    a->job.trainer.epochs = 10;
    CLI::App* c = add_command(
        app, "unlearn", "Make a model forget, evaluating each epoch", common, [a, common](const CLI::App& self) {
            TrainingJob& job = a->job;
            job.objective = &unlearning_objective(a->method);
            const fs::path tofu = job.evaluation.tofu;
            finish_arguments(*a, *common);
            job.trainer.objective = a->objective.finished(self, *job.objective);
            if (job.objective->layer)
                job.trainer.objective.rmu_layer =
                    rmu_layer(job.trainer.objective, llama::read_config(base_of(job.model, job.base)));
            if (job.data.empty()) {
                require_input(!tofu.empty(), "give --forget FILE, or --tofu DIR and --split");
                job.data = {eval::set_file(tofu, job.evaluation.split)};
            }
            if (job.retain.empty() && job.objective->retain) {
                require_input(!tofu.empty(), job.objective->title, " needs --retain FILE, or --tofu DIR and --split");
                job.retain = {eval::set_file(tofu, retain_of(job.evaluation.split))};
            }
            job.save_all = !a->save_last;
            if (!a->alpha.alpha.empty()) check_extrapolation(*a, tofu);
            const TrainingResult result = run_training(job, config_text(self, job));
            Json out = result_json(job, result);
            if (!a->alpha.alpha.empty() && result.step == result.steps)
                out["extrapolation"] = extrapolate_outcome(*a, *common);
            return out;
        });
    c->add_option("--model", a->job.model,
                  "Model folder to start from, or an adapter's, which is trained on; also the reference and the origin "
                  "of UIPE")
        ->required();
    add_base_option(*c, a->job.base);
    c->add_option("--method", a->method, method_names())->required();
    c->add_option("--forget", a->job.data, "Rows to forget; default: the split's file in --tofu");
    c->add_option("--retain", a->job.retain, "Rows to keep; default: the split's counterpart in --tofu");
    c->add_option("--idk", a->job.idk, "Refusals for DPO and IDK, a line each; default: a hundred built-in ones");
    add_objective_options(*c, a->objective);
    c->add_option("--utility-floor", a->job.utility_floor, "Selected epoch: keeps this share of the first utility")
        ->group("Evaluation");
    add_alpha_options(*c, a->alpha, "At the end, extrapolate the selected epoch by these factors, or auto");
    c->add_flag("--save-last", a->save_last, "Keep only the last epoch's model");
    add_training_options(*c, *a);
    c->footer(methods_text() +
              "Example: uipe unlearn --model full/model --method npo --tofu DATA --split forget01 --retain-log "
              "retain99/TOFU_EVAL.json --out runs/npo");
}

}  // namespace uipe::unlearn
