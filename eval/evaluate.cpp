#include "eval/evaluate.h"

#include <algorithm>

#include "eval/rouge.h"
#include "eval/token_metrics.h"
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

AnswerScore answer_score(Tokens tokens) { return {mia_loss(tokens), static_cast<std::int64_t>(tokens.size()), {}}; }

class Evaluator {
public:
    Evaluator(const llama::Llama& model, const llama::Tokenizer& tokenizer, const EvaluateOptions& options)
        : model_(model), tokenizer_(tokenizer), options_(options), tofu_(options.protocol == Protocol::tofu) {}

    EvalLog run(TofuSets sets) {
        if (tofu_)
            for (auto* rows : {&sets.forget, &sets.retain, &sets.real_authors, &sets.world_facts})
                keep_first(*rows, rows_judged(Protocol::tofu, rows->size()));
        total_ = (options_.generates ? 2 : 1) *
                     (sets.forget.size() + sets.retain.size() + sets.real_authors.size() + sets.world_facts.size()) +
                 sets.holdout.size();
        EvalLog log;
        log.format = options_.protocol;
        const auto forget_tokens = score_set(log.forget, sets.forget, !tofu_);
        score_set(log.retain, sets.retain, false);
        score_set(log.real_authors, sets.real_authors, false);
        score_set(log.world_facts, sets.world_facts, false);
        if (options_.generates) generate({&log.forget, &log.retain, &log.real_authors, &log.world_facts});
        if (!tofu_) score_memory(log, forget_tokens);
        if (!tofu_ && !sets.forget.empty() && !sets.holdout.empty()) attack(log, sets, forget_tokens);
        return log;
    }

private:
    using Answers = std::vector<std::vector<llama::TokenScore>>;

    llama::Sequence sequence(const std::string& question, const std::string& answer) const {
        return llama::encode_qa(tokenizer_, options_.form, question, answer, tofu_ ? 200 : 513);
    }

    Answers token_scores(const std::vector<llama::Sequence>& sequences, std::size_t worth, bool closely) {
        const std::size_t before = done_;
        auto out = llama::token_scores(model_, sequences, closely, 8192, [&](std::size_t done, std::size_t all) {
            report(before + worth * done / std::max<std::size_t>(1, all));
        });
        report(before + worth);
        return out;
    }

    /// Fills `set` and returns the tokens of each row's own answer.
    Answers score_set(SetScore& set, const std::vector<QaRow>& rows, bool closely) {
        std::vector<llama::Sequence> sequences;
        for (const QaRow& row : rows) {
            sequences.push_back(sequence(row.question, row.answer));
            if (!row.paraphrased_answer.empty()) sequences.push_back(sequence(row.question, row.paraphrased_answer));
            for (const std::string& wrong : row.perturbed_answers) sequences.push_back(sequence(row.question, wrong));
        }
        const Answers scores = token_scores(sequences, rows.size(), closely);
        Answers answers;
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
            if (!tofu_ && out.paraphrase) set_texts(out, row);
            set.rows.push_back(std::move(out));
        }
        return answers;
    }

    /// What ROUGE compares with the generation beside the right answer.
    static void set_texts(RowScore& out, const QaRow& row) {
        out.paraphrase->text = {row.paraphrased_answer, {}};
        for (std::size_t i = 0; i < out.perturbed.size(); ++i) out.perturbed[i].text = {row.perturbed_answers[i], {}};
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
            const auto compare = [&](AnswerScore& answer) {
                if (answer.text) answer.text->rouge = rouge(answer.text->text, row.generation);
            };
            if (row.paraphrase) compare(*row.paraphrase);
            std::for_each(row.perturbed.begin(), row.perturbed.end(), compare);
        }
        report(before + rows.size());
    }

    static void score_memory(EvalLog& log, const Answers& forget) {
        for (const auto& tokens : forget) {
            log.columns["exact_memorization"].push_back(exact_memorization(tokens));
            log.columns["extraction_strength"].push_back(extraction_strength(tokens));
        }
    }

    void attack(EvalLog& log, const TofuSets& sets, const Answers& forget) {
        const auto sequences_of = [&](const std::vector<QaRow>& rows) {
            std::vector<llama::Sequence> out;
            for (const QaRow& row : rows) out.push_back(sequence(row.question, row.answer));
            return out;
        };
        const auto holdout = sequences_of(sets.holdout);
        attack(log, &Attack::forget, sequences_of(sets.forget), forget);
        attack(log, &Attack::holdout, holdout, token_scores(holdout, holdout.size(), true));
    }

    void attack(EvalLog& log, std::vector<double> Attack::*side, const std::vector<llama::Sequence>& sequences,
                const Answers& answers) const {
        for (std::size_t i = 0; i < answers.size(); ++i) {
            const auto first = static_cast<std::size_t>(sequences[i].first_target);
            const std::string text = tokenizer_.decode(std::span(sequences[i].ids).subspan(first));
            (log.attacks["mia_loss"].*side).push_back(mia_loss(answers[i]));
            (log.attacks["mia_zlib"].*side).push_back(mia_zlib(answers[i], text));
            (log.attacks["mia_min_k"].*side).push_back(mia_min_k(answers[i]));
            (log.attacks["mia_min_k_plus_plus"].*side).push_back(mia_min_k_plus_plus(answers[i]));
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
