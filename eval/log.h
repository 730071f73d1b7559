// An evaluation log in memory, and the two published formats it is read from and written to.
#pragma once

#include <cmath>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "eval/rouge.h"
#include "tensor/base/file.h"

namespace uipe::eval {

/// The two published ways to evaluate; each has its own log format and conventions (see ScoreOptions).
enum class Protocol { tofu, open_unlearning };

/// How many of a set's `rows` a protocol judges: TOFU's first 300, or all.
constexpr std::size_t rows_judged(Protocol protocol, std::size_t rows) {
    return protocol == Protocol::tofu && rows > 300 ? 300 : rows;
}

/// The text of an answer, and how much of it the row's generation says.
struct TextScore {
    std::string text;
    Rouge rouge;

    bool operator==(const TextScore&) const = default;
};

/// How well a model predicts one given answer.
struct AnswerScore {
    double avg_loss = 0;           // mean negative log-likelihood per target token, end of sequence counted
    std::int64_t num_tokens = 0;   // target tokens; 0 when the log does not say
    std::optional<double> stored;  // the probability as a log holds it (computed in f32), which is then the one used
    std::optional<TextScore> text = {};  // of a paraphrased or perturbed answer, in open-unlearning's format

    /// p^(1/num_tokens).
    double probability() const { return stored.value_or(std::exp(-avg_loss)); }
    bool operator==(const AnswerScore&) const = default;
};

struct RowScore {
    AnswerScore answer;
    std::optional<AnswerScore> paraphrase;  // real authors and world facts have none; their answer stands in
    std::vector<AnswerScore> perturbed;
    std::string prompt, ground_truth, generation;
    double rouge1_recall = 0, rougeL_recall = 0, rougeL_f1 = 0;

    bool operator==(const RowScore&) const = default;
};

/// The rows of one question-answer set, in its order. Empty when the set was not evaluated.
struct SetScore {
    std::vector<RowScore> rows;

    bool operator==(const SetScore&) const = default;
};

/// One membership-inference attack: its score on each forget row and each held-out row.
struct Attack {
    std::vector<double> forget, holdout;

    bool operator==(const Attack&) const = default;
};

struct EvalLog {
    Protocol format = Protocol::open_unlearning;
    std::string source = "this evaluation";  // the file it was read from, for messages
    SetScore forget, retain, real_authors, world_facts;

    // What only the open-unlearning format holds.
    std::map<std::string, std::vector<double>>
        columns;                               // exact_memorization, extraction_strength: a score a forget row
    std::map<std::string, Attack> attacks;     // mia_loss, mia_zlib, …
    std::map<std::string, double> aggregates;  // every metric's aggregate as the file states it
};

/// Reads eval_log_aggregated.json (tofu) or TOFU_EVAL.json (open-unlearning), told apart by their content, or a folder
/// that holds either (TOFU_EVAL.json goes first).
/// Open-unlearning logs do not hold num_tokens; tofu logs do not hold rougeL_f1, which is computed from their texts.
/// InputError names the file and the JSON place of a field that is missing, of a wrong type, null or not finite.
EvalLog read_log(const fs::path& path);

/// Writes eval_log_aggregated.json. InputError when the log lacks token counts or perturbed answers, which it needs.
void write_tofu_log(const fs::path& file, const EvalLog& log);

/// Writes TOFU_EVAL.json and TOFU_SUMMARY.json into `folder`, which is made when missing. Aggregates are computed from
/// the rows under the protocol of the log; forget_quality and privleak need `retain` (may be null). Aggregates that
/// cannot be computed are copied.
void write_open_unlearning_log(const fs::path& folder, const EvalLog& log, const EvalLog* retain);

}  // namespace uipe::eval
