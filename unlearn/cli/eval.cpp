// uipe eval, uipe score, uipe logprobs.
#include <cstdio>
#include <numeric>

#include "eval/score_json.h"
#include "llama/logprobs.h"
#include "unlearn/cli/command.h"
#include "unlearn/cli/evaluation_options.h"
#include "unlearn/dataset.h"
#include "unlearn/progress.h"
#include "unlearn/run_folder.h"

namespace uipe::unlearn {
namespace {

void print_scores(const eval::Scores& scores) {
    for (const auto& [name, value] : scores) std::printf("%-28s %.6g\n", name.c_str(), value);
}

/// Refuses a folder that holds more than an evaluation: writing replaces it whole.
void require_only_logs(const fs::path& folder) {
    if (!fs::exists(folder)) return;
    for (const auto& entry : fs::directory_iterator(folder)) {
        const std::string name = entry.path().filename().string();
        const bool log = name == "TOFU_EVAL.json" || name == "TOFU_SUMMARY.json" || name == "eval_log_aggregated.json";
        require_input(log, folder.string(), ": also holds ", name,
                      ", which --overwrite would remove; choose another --out");
    }
}

eval::TruthRatio truth_ratio_named(const std::string& name) {
    if (name == "geometric") return eval::TruthRatio::geometric;
    if (name == "arithmetic") return eval::TruthRatio::arithmetic;
    require_input(name == "prob_mean", "unknown truth ratio '", name, "'; known: geometric, arithmetic, prob_mean");
    return eval::TruthRatio::prob_mean;
}

}  // namespace

void add_eval(CLI::App& app) {
    struct Arguments {
        fs::path model, base, out;
        bool overwrite = false;
        EvalSettings evaluation;
    };
    const auto a = std::make_shared<Arguments>();
    const auto common = std::make_shared<Common>();
    CLI::App* c = add_command(
        app, "eval", "Evaluate a model on TOFU and write the published log formats", common,
        [a, common](const CLI::App&) {
            require_input(!a->evaluation.tofu.empty(), "give --tofu DIR, a folder of TOFU's sets");
            require_free(a->out, a->overwrite, "TOFU_EVAL.json");
            require_only_logs(a->out);
            const Evaluation evaluation(a->evaluation);
            say(tensor::description(common->where()));
            const LoadedModel model = load_model(a->model, common->type(), common->where(), Weights::shared, a->base);
            const eval::EvalLog log = evaluation.run(*model.model, model.tokenizer, "evaluation");
            write_folder(a->out, [&](const fs::path& temporary) { evaluation.write(temporary, log); });
            const eval::Scores scores = evaluation.score(log);
            if (prints_text(*common)) print_scores(scores);
            return eval::to_json(scores);
        });
    c->add_option("--model", a->model, "Model or adapter folder")->required();
    add_base_option(*c, a->base);
    c->add_option("--out", a->out, "Folder for TOFU_EVAL.json, TOFU_SUMMARY.json (tofu: also eval_log_aggregated.json)")
        ->required();
    c->add_flag("--overwrite", a->overwrite, "Replace the evaluation in --out");
    c->add_option("--template", a->evaluation.form, "Prompt of a QA row: llama2-chat, qa, plain");
    add_evaluation_options(*c, a->evaluation);
    c->footer(
        "Example: uipe eval --model full/model --tofu DATA --split forget01 --retain-log retain99/TOFU_EVAL.json --out "
        "eval/full");
}

void add_score(CLI::App& app) {
    struct Arguments {
        fs::path log, retain_log;
        std::string protocol = "open-unlearning";
        std::string truth_ratio = "geometric";
        bool recompute_rouge = false;
    };
    const auto a = std::make_shared<Arguments>();
    const auto common = std::make_shared<Common>();
    CLI::App* c = add_command(
        app, "score", "Compute all metrics from a published or own log; no model needed", common,
        [a, common](const CLI::App& self) {
            const eval::EvalLog log = eval::read_log(a->log);
            std::optional<eval::EvalLog> retain;
            if (!a->retain_log.empty()) retain = eval::read_log(a->retain_log);
            eval::ScoreOptions options;
            // Unless told otherwise a log is scored by the protocol that wrote it.
            options.protocol = self.get_option("--protocol")->count() > 0 ? protocol_named(a->protocol) : log.format;
            options.truth_ratio = truth_ratio_named(a->truth_ratio);
            options.recompute_rouge = a->recompute_rouge;
            const eval::Scores scores = eval::score(log, retain ? &*retain : nullptr, options);
            if (prints_text(*common)) print_scores(scores);
            return eval::to_json(scores);
        });
    c->add_option("--log", a->log, "TOFU_EVAL.json, eval_log_aggregated.json, or a folder that holds one")->required();
    c->add_option("--retain-log", a->retain_log, "The retain model's log: adds forget_quality and privleak");
    c->add_option("--protocol", a->protocol, "tofu or open-unlearning; default: the log's own")
        ->default_str("the log's own");
    c->add_option("--truth-ratio", a->truth_ratio, "geometric, arithmetic or prob_mean");
    c->add_flag("--recompute-rouge", a->recompute_rouge, "Compute ROUGE from the texts instead of reading it");
}

void add_logprobs(CLI::App& app) {
    struct Arguments {
        fs::path model, base, qa;
        std::string form = "llama2-chat";
        std::int64_t max_length = 512;
    };
    const auto a = std::make_shared<Arguments>();
    const auto common = std::make_shared<Common>();
    CLI::App* c =
        add_command(app, "logprobs", "Log-probabilities of answers, row by row", common, [a, common](const CLI::App&) {
            require_input(a->max_length >= 2, "--max-length must be at least 2");
            const LoadedModel model = load_model(a->model, common->type(), common->where(), Weights::shared, a->base);
            const auto sequences =
                read_sequences(a->qa, model.tokenizer, llama::prompt_template(a->form), a->max_length);
            Progress progress("log-probabilities", static_cast<double>(sequences.size()));
            const auto rows = llama::token_logprobs(*model.model, sequences, 8192, [&](std::size_t done, std::size_t) {
                progress.update(static_cast<double>(done));
            });
            if (prints_text(*common)) std::printf("row  tokens  avg_loss\n");
            for (std::size_t i = 0; i < rows.size(); ++i) {
                const double loss =
                    -std::accumulate(rows[i].begin(), rows[i].end(), 0.0) / static_cast<double>(rows[i].size());
                if (common->json)
                    std::printf("%s\n", Json{{"avg_loss", loss},
                                             {"num_tokens", rows[i].size()},
                                             {"logprobs", rows[i]},
                                             {"ids", sequences[i].ids},
                                             {"first_target", sequences[i].first_target}}
                                            .dump()
                                            .c_str());
                else
                    std::printf("%-4zu %6zu  %.9g\n", i, rows[i].size(), loss);
            }
            return Json();
        });
    c->add_option("--model", a->model, "Model or adapter folder")->required();
    add_base_option(*c, a->base);
    c->add_option("--qa", a->qa, "Rows {question, answer} or {text}")->required();
    c->add_option("--template", a->form, "Prompt of a QA row: llama2-chat, qa, plain");
    c->add_option("--max-length", a->max_length, "Tokens of a row at most");
    c->footer("With --json: a line a row, {avg_loss, num_tokens, logprobs, ids, first_target}.");
}

}  // namespace uipe::unlearn
