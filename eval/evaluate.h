// Evaluating a model on TOFU: probabilities of right, paraphrased and perturbed answers, generations and their ROUGE.
#pragma once

#include <functional>

#include "eval/log.h"
#include "eval/qa.h"
#include "llama/model.h"
#include "llama/prompt_template.h"

namespace uipe::eval {

/// The sets a TOFU evaluation reads. A set may be empty: its metrics are left out.
struct TofuSets {
    std::vector<QaRow> forget, retain, real_authors, world_facts;
    std::vector<QaRow> holdout;  // for membership inference; open-unlearning only
};

/// The file of a set of that name in `folder`: `.json`, or `.jsonl` where only that is there.
fs::path set_file(const fs::path& folder, const std::string& name);

/// Reads forgetXX_perturbed, retain_perturbed, real_authors_perturbed, world_facts_perturbed and, when there,
/// holdoutXX (`.json` or `.jsonl`) from `folder`, for split "forgetXX". The forget set is always whole; of the sets
/// that model utility reads, at most `max_utility_rows` rows each (0: all). InputError names what is missing.
TofuSets read_tofu(const fs::path& folder, const std::string& split, std::int64_t max_utility_rows = 0);

struct EvaluateOptions {
    Protocol protocol = Protocol::open_unlearning;
    llama::PromptTemplate form;
    std::int64_t max_new_tokens = 200;
    bool generates = true;  // or leaves generations and their ROUGE out
    /// Called with the share of work done, 0 to 1.
    std::function<void(double done)> progress;
};

/// tofu: the first 300 rows of each set, 200 tokens for prompt and continuation together.
/// open_unlearning: all rows, `max_new_tokens` new tokens, ROUGE against paraphrased and perturbed answers too, of the
/// forget set exact_memorization and extraction_strength, and when there is a holdout set the attacks mia_loss,
/// mia_zlib, mia_min_k and mia_min_k_plus_plus (token_metrics.h).
/// Generation is greedy, one for each question. The same model and rows give the same log.
EvalLog evaluate(const llama::Llama& model, const llama::Tokenizer& tokenizer, const TofuSets& sets,
                 const EvaluateOptions& options);

}  // namespace uipe::eval
