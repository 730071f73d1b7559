#include "eval/evaluate.h"

#include <algorithm>
#include <numeric>

#include "eval/rouge.h"
#include "llama/generate.h"
#include "llama/logprobs.h"

namespace uipe::eval {

fs::path set_file(const fs::path& folder, const std::string& name) {
    for (const char* suffix : {".json", ".jsonl"})
        if (fs::exists(folder / (name + suffix))) return folder / (name + suffix);
    return folder / (name + ".json");
}

namespace {

void keep_first(std::vector<QaRow>& rows, std::size_t most) {
    if (most > 0 && rows.size() > most) rows.resize(most);
}

std::string stripped(const std::string& text) {
    const auto first = text.find_first_not_of(" \t\r\n");
    if (first == std::string::npos) return "";
    return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

AnswerScore answer_score(const std::vector<double>& logprobs) {
    const double sum = std::accumulate(logprobs.begin(), logprobs.end(), 0.0);
    return {-sum / static_cast<double>(logprobs.size()), static_cast<std::int64_t>(logprobs.size()), {}};
}

/// Minus the mean of the least likely 40 per cent of an answer's tokens, its end not counted (Shi et al. 2024).
double min_k(std::vector<double> logprobs) {
    if (logprobs.size() > 1) logprobs.pop_back();
    std::sort(logprobs.begin(), logprobs.end());
    const std::size_t k = std::max<std::size_t>(1, logprobs.size() * 2 / 5);
    return -std::accumulate(logprobs.begin(), logprobs.begin() + static_cast<std::ptrdiff_t>(k), 0.0) /
           static_cast<double>(k);
}

class Evaluator {
public:
    Evaluator(const llama::Llama& model, const llama::Tokenizer& tokenizer, const EvaluateOptions& options)
        : model_(model), tokenizer_(tokenizer), options_(options), tofu_(options.protocol == Protocol::tofu) {}

    EvalLog run(TofuSets sets) {
        if (tofu_)
            for (auto* rows : {&sets.forget, &sets.retain, &sets.real_authors, &sets.world_facts})
                keep_first(*rows, rows_judged(Protocol::tofu, rows->size()));
        total_ = 2 * (sets.forget.size() + sets.retain.size() + sets.real_authors.size() + sets.world_facts.size()) +
                 sets.holdout.size();
        EvalLog log;
        log.format = options_.protocol;
        const auto forget_tokens = score_set(log.forget, sets.forget);
        score_set(log.retain, sets.retain);
        score_set(log.real_authors, sets.real_authors);
        score_set(log.world_facts, sets.world_facts);
        generate({&log.forget, &log.retain, &log.real_authors, &log.world_facts});
        if (!sets.holdout.empty() && !tofu_) attack(log, forget_tokens, sets.holdout);
        return log;
    }

private:
    using Logprobs = std::vector<std::vector<double>>;

    llama::Sequence sequence(const std::string& question, const std::string& answer) const {
        return llama::encode_qa(tokenizer_, options_.form, question, answer, tofu_ ? 200 : 513);
    }

    Logprobs logprobs(const std::vector<llama::Sequence>& sequences, std::size_t worth) {
        const std::size_t before = done_;
        auto out = llama::token_logprobs(model_, sequences, 8192, [&](std::size_t done, std::size_t all) {
            report(before + worth * done / std::max<std::size_t>(1, all));
        });
        report(before + worth);
        return out;
    }

    /// Fills `set` and returns the log-probabilities of each row's own answer.
    Logprobs score_set(SetScore& set, const std::vector<QaRow>& rows) {
        std::vector<llama::Sequence> sequences;
        for (const QaRow& row : rows) {
            sequences.push_back(sequence(row.question, row.answer));
            if (!row.paraphrased_answer.empty()) sequences.push_back(sequence(row.question, row.paraphrased_answer));
            for (const std::string& wrong : row.perturbed_answers) sequences.push_back(sequence(row.question, wrong));
        }
        const Logprobs scores = logprobs(sequences, rows.size());
        Logprobs answers;
        std::size_t next = 0;
        for (const QaRow& row : rows) {
            RowScore out;
            answers.push_back(scores[next]);
            out.answer = answer_score(scores[next++]);
            if (!row.paraphrased_answer.empty()) out.paraphrase = answer_score(scores[next++]);
            for (std::size_t i = 0; i < row.perturbed_answers.size(); ++i)
                out.perturbed.push_back(answer_score(scores[next++]));
            out.prompt = options_.form.prompt(row.question);
            out.ground_truth = row.answer;
            set.rows.push_back(std::move(out));
        }
        return answers;
    }

    /// All sets in one call: what runs on alone at the end, runs on once.
    void generate(std::initializer_list<SetScore*> sets) {
        std::vector<RowScore*> rows;
        std::vector<std::vector<std::int32_t>> prompts;
        for (SetScore* set : sets)
            for (RowScore& row : set->rows) {
                rows.push_back(&row);
                prompts.push_back(tokenizer_.encode(row.prompt));
                prompts.back().insert(prompts.back().begin(), tokenizer_.bos_id());
            }
        llama::GenerateOptions how;
        how.max_new_tokens = options_.max_new_tokens;
        if (tofu_) {
            how.max_length = 200;
            how.max_new_tokens = 200;
        }
        const std::size_t before = done_;
        how.progress = [&](std::size_t ended, std::size_t) { report(before + ended); };
        const auto continuations = llama::generate(model_, prompts, how);
        for (std::size_t i = 0; i < rows.size(); ++i) {
            RowScore& row = *rows[i];
            row.generation = stripped(tokenizer_.decode(continuations[i]));
            const Rouge r = rouge(row.ground_truth, row.generation);
            row.rouge1_recall = r.rouge1_recall;
            row.rougeL_recall = r.rougeL_recall;
            row.rougeL_f1 = r.rougeL_f1;
        }
        report(before + rows.size());
    }

    void attack(EvalLog& log, const Logprobs& forget, const std::vector<QaRow>& holdout) {
        std::vector<llama::Sequence> sequences;
        for (const QaRow& row : holdout) sequences.push_back(sequence(row.question, row.answer));
        const Logprobs unseen = logprobs(sequences, holdout.size());
        for (const auto* side : {&forget, &unseen}) {
            for (const std::vector<double>& row : *side) {
                Attack& loss = log.attacks["mia_loss"];
                Attack& lowest = log.attacks["mia_min_k"];
                (side == &forget ? loss.forget : loss.holdout).push_back(answer_score(row).avg_loss);
                (side == &forget ? lowest.forget : lowest.holdout).push_back(min_k(row));
            }
        }
    }

    void report(std::size_t done) {
        done_ = done;
        if (options_.progress && total_ > 0) options_.progress(static_cast<double>(done) / static_cast<double>(total_));
    }

    const llama::Llama& model_;
    const llama::Tokenizer& tokenizer_;
    const EvaluateOptions& options_;
    bool tofu_;
    std::size_t done_ = 0;
    std::size_t total_ = 0;
};

}  // namespace

TofuSets read_tofu(const fs::path& folder, const std::string& split, std::int64_t max_utility_rows) {
    require_input(split.starts_with("forget") && split.size() > 6, "--split ", split,
                  ": a forget set is named, such as forget01, forget05 or forget10");
    TofuSets sets;
    sets.forget = read_qa(set_file(folder, split + "_perturbed"), author_rows);
    sets.retain = read_qa(set_file(folder, "retain_perturbed"), author_rows);
    sets.real_authors = read_qa(set_file(folder, "real_authors_perturbed"), world_rows);
    sets.world_facts = read_qa(set_file(folder, "world_facts_perturbed"), world_rows);
    const fs::path holdout = set_file(folder, "holdout" + split.substr(6));
    if (fs::exists(holdout)) sets.holdout = read_qa(holdout, answers_only);
    const auto most = static_cast<std::size_t>(std::max<std::int64_t>(0, max_utility_rows));
    for (auto* rows : {&sets.retain, &sets.real_authors, &sets.world_facts}) keep_first(*rows, most);
    return sets;
}

EvalLog evaluate(const llama::Llama& model, const llama::Tokenizer& tokenizer, const TofuSets& sets,
                 const EvaluateOptions& options) {
    return Evaluator(model, tokenizer, options).run(sets);
}

}  // namespace uipe::eval
