// Evaluation of a small random model, against the same numbers computed one by one.
#include "eval/evaluate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "eval/rouge.h"
#include "eval/score.h"
#include "eval/token_metrics.h"
#include "llama/generate.h"
#include "llama/logprobs.h"
#include "llama/tokenizer_trainer.h"
#include "tests/eval/sets.h"
#include "tests/llama/models.h"

namespace uipe::eval {
namespace {

QaRow row_of(int i, std::size_t perturbed, bool paraphrased) {
    const std::string n = std::to_string(i);
    QaRow row;
    row.question = "Who wrote book " + n + " of the blue series?";
    row.answer = "The author of book " + n + " is known.";
    if (paraphrased) row.paraphrased_answer = "Book " + n + " has a known author.";
    for (std::size_t k = 0; k < perturbed; ++k)
        row.perturbed_answers.push_back("Nobody wrote " + n + std::string(k, '!'));
    return row;
}

std::vector<QaRow> rows_of(int first, int n, std::size_t perturbed, bool paraphrased) {
    std::vector<QaRow> out;
    for (int i = 0; i < n; ++i) out.push_back(row_of(first + i, perturbed, paraphrased));
    return out;
}

class Evaluate : public ::testing::Test {
protected:
    Evaluate() {
        std::vector<std::string> lines;
        for (int i = 0; i < 20; ++i) {
            const QaRow row = row_of(i, 2, true);
            lines.insert(lines.end(), {"[INST] " + row.question + " [/INST]", row.answer, row.paraphrased_answer,
                                       row.perturbed_answers.back()});
        }
        llama::train_tokenizer(lines, 340, folder_ / "tokenizer.model");
        tokenizer_ = llama::Tokenizer::load(folder_ / "tokenizer.model");
        llama::Config config = llama::small_config();
        config.vocab_size = tokenizer_->vocab_size();
        config.max_position_embeddings = 512;
        model_.emplace(llama::lively_model(config, tensor::DType::f32, 3));
    }

    EvalLog run(Protocol protocol, const TofuSets& sets, std::int64_t max_new_tokens = 200) const {
        EvaluateOptions options;
        options.protocol = protocol;
        options.form = llama::prompt_template("llama2-chat");
        options.max_new_tokens = max_new_tokens;
        return evaluate(*model_, *tokenizer_, sets, options);
    }

    /// The answer's score, alone in its batch.
    void expect_score(const AnswerScore& got, const std::string& question, const std::string& answer) const {
        const llama::Sequence s =
            llama::encode_qa(*tokenizer_, llama::prompt_template("llama2-chat"), question, answer, 512);
        const std::vector<double> logp = llama::token_logprobs(*model_, std::vector{s}).front();
        EXPECT_EQ(got.num_tokens, static_cast<std::int64_t>(logp.size())) << answer;
        const double loss = -std::accumulate(logp.begin(), logp.end(), 0.0) / static_cast<double>(logp.size());
        // f32 sums over batches of other shapes: a few ulp of losses about 6.
        EXPECT_NEAR(got.avg_loss, loss, 1e-5) << answer;
    }

    /// The tokens of a row's answer, alone in their batch.
    std::vector<llama::TokenScore> tokens_of(const QaRow& row) const {
        const llama::Sequence s =
            llama::encode_qa(*tokenizer_, llama::prompt_template("llama2-chat"), row.question, row.answer, 512);
        return llama::token_scores(*model_, std::vector{s}, true).front();
    }

    std::string generation(const std::string& question, std::int64_t max_new_tokens, std::int64_t max_length) const {
        std::vector<std::int32_t> prompt = tokenizer_->encode(llama::prompt_template("llama2-chat").prompt(question));
        prompt.insert(prompt.begin(), tokenizer_->bos_id());
        llama::GenerateOptions how;
        how.max_new_tokens = max_new_tokens;
        how.max_length = max_length;
        const std::string text =
            tokenizer_->decode(llama::generate(*model_, std::vector<std::vector<std::int32_t>>{prompt}, how).front());
        const auto first = text.find_first_not_of(" \t\r\n");
        return first == std::string::npos ? "" : text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
    }

    void expect_rows(const std::vector<RowScore>& got, const std::vector<QaRow>& rows, std::int64_t max_new_tokens,
                     std::int64_t max_length) const {
        ASSERT_EQ(got.size(), rows.size());
        for (std::size_t i = 0; i < rows.size(); ++i) {
            const QaRow& row = rows[i];
            expect_score(got[i].answer, row.question, row.answer);
            ASSERT_EQ(got[i].paraphrase.has_value(), !row.paraphrased_answer.empty());
            if (got[i].paraphrase) expect_score(*got[i].paraphrase, row.question, row.paraphrased_answer);
            ASSERT_EQ(got[i].perturbed.size(), row.perturbed_answers.size());
            for (std::size_t k = 0; k < row.perturbed_answers.size(); ++k)
                expect_score(got[i].perturbed[k], row.question, row.perturbed_answers[k]);
            EXPECT_EQ(got[i].prompt, "[INST] " + row.question + " [/INST]");
            EXPECT_EQ(got[i].ground_truth, row.answer);
            EXPECT_EQ(got[i].generation, generation(row.question, max_new_tokens, max_length));
            const Rouge r = rouge(row.answer, got[i].generation);
            EXPECT_EQ(got[i].rouge1_recall, r.rouge1_recall);
            EXPECT_EQ(got[i].rougeL_recall, r.rougeL_recall);
            EXPECT_EQ(got[i].rougeL_f1, r.rougeL_f1);
            expect_texts(got[i], row, max_length == 0);
        }
    }

    /// The texts of a row that has a paraphrase, beside its one generation.
    static void expect_texts(const RowScore& got, const QaRow& row, bool wanted) {
        const auto expect_text = [&](const AnswerScore& answer, const std::string& text) {
            ASSERT_EQ(answer.text.has_value(), wanted && got.paraphrase);
            if (!answer.text) return;
            EXPECT_EQ(answer.text->text, text);
            EXPECT_EQ(answer.text->rouge, rouge(text, got.generation));
        };
        if (got.paraphrase) expect_text(*got.paraphrase, row.paraphrased_answer);
        for (std::size_t k = 0; k < got.perturbed.size(); ++k) expect_text(got.perturbed[k], row.perturbed_answers[k]);
    }

    static TofuSets small_sets() {
        return {rows_of(0, 5, 5, true), rows_of(10, 4, 5, true), rows_of(20, 3, 3, false), rows_of(30, 2, 3, false),
                rows_of(40, 6, 0, false)};
    }

    const test::Threads one_{1};
    llama::TemporaryFolder folder_;
    std::optional<llama::Tokenizer> tokenizer_;
    std::optional<llama::Llama> model_;
};

TEST_F(Evaluate, OpenUnlearningIsEveryRowByItself) {
    const TofuSets sets = small_sets();
    const EvalLog log = run(Protocol::open_unlearning, sets, 12);
    EXPECT_EQ(log.format, Protocol::open_unlearning);
    expect_rows(log.forget.rows, sets.forget, 12, 0);
    expect_rows(log.retain.rows, sets.retain, 12, 0);
    expect_rows(log.real_authors.rows, sets.real_authors, 12, 0);
    expect_rows(log.world_facts.rows, sets.world_facts, 12, 0);
}

TEST_F(Evaluate, TofuIsEveryRowByItselfWithin200Tokens) {
    const TofuSets sets = small_sets();
    const EvalLog log = run(Protocol::tofu, sets, 12);
    EXPECT_EQ(log.format, Protocol::tofu);
    expect_rows(log.forget.rows, sets.forget, 200, 200);
    expect_rows(log.world_facts.rows, sets.world_facts, 200, 200);
    EXPECT_TRUE(log.attacks.empty());
    std::size_t longest = 0;
    for (const RowScore& row : log.forget.rows) longest = std::max(longest, row.generation.size());
    EXPECT_GT(longest, 40u) << "more than 12 tokens";
}

TEST_F(Evaluate, AttacksCompareForgetAndHoldout) {
    const TofuSets sets = small_sets();
    const EvalLog log = run(Protocol::open_unlearning, sets, 0);
    ASSERT_EQ(log.attacks.size(), 4u);
    ASSERT_EQ(log.columns.size(), 2u);
    const auto expect_row = [&](const QaRow& row, std::vector<double> Attack::*side, std::size_t i) {
        const auto got = [&](const char* attack) { return (log.attacks.at(attack).*side).at(i); };
        const auto tokens = tokens_of(row);
        // f32 sums over batches of other shapes: a few ulp of losses about 6, and of deviations of 1 and more.
        EXPECT_NEAR(got("mia_loss"), mia_loss(tokens), 1e-5);
        EXPECT_NEAR(got("mia_zlib"), mia_zlib(tokens, row.answer), 1e-6);
        EXPECT_NEAR(got("mia_min_k"), mia_min_k(tokens), 1e-5);
        EXPECT_NEAR(got("mia_min_k_plus_plus"), mia_min_k_plus_plus(tokens), 1e-5);
    };
    for (std::size_t i = 0; i < sets.forget.size(); ++i) {
        expect_row(sets.forget[i], &Attack::forget, i);
        EXPECT_EQ(log.columns.at("exact_memorization").at(i), exact_memorization(tokens_of(sets.forget[i])));
        EXPECT_EQ(log.columns.at("extraction_strength").at(i), extraction_strength(tokens_of(sets.forget[i])));
    }
    for (std::size_t i = 0; i < sets.holdout.size(); ++i) expect_row(sets.holdout[i], &Attack::holdout, i);
    for (const auto& [name, attack] : log.attacks) {
        EXPECT_EQ(attack.forget.size(), sets.forget.size()) << name;
        EXPECT_EQ(attack.holdout.size(), sets.holdout.size()) << name;
    }
}

TEST_F(Evaluate, WithoutAHoldoutSetThereIsNoAttackAndTofuHasNoTokenMetrics) {
    TofuSets sets = small_sets();
    EXPECT_TRUE(run(Protocol::tofu, sets).columns.empty());
    sets.holdout.clear();
    const EvalLog log = run(Protocol::open_unlearning, sets, 0);
    EXPECT_TRUE(log.attacks.empty());
    EXPECT_EQ(log.columns.at("extraction_strength").size(), sets.forget.size());
    sets.forget.clear();
    EXPECT_TRUE(run(Protocol::open_unlearning, sets, 0).columns.empty());
}

TEST_F(Evaluate, TofuStopsAt300RowsAndOpenUnlearningDoesNot) {
    TofuSets sets;
    sets.forget = rows_of(0, 305, 5, true);
    sets.world_facts = rows_of(0, 3, 3, false);
    EXPECT_EQ(run(Protocol::open_unlearning, sets, 0).forget.rows.size(), 305u);
    for (QaRow& row : sets.forget) row.question = std::string(row.question.size(), 'x');  // 200 tokens are soon reached
    const EvalLog log = run(Protocol::tofu, sets);
    EXPECT_EQ(log.forget.rows.size(), 300u);
    EXPECT_EQ(log.forget.rows.back().ground_truth, sets.forget[299].answer);
    EXPECT_EQ(log.world_facts.rows.size(), 3u);
    EXPECT_TRUE(log.retain.rows.empty());
}

TEST_F(Evaluate, TheSameModelAndRowsGiveTheSameLogOnAnyThreads) {
    const TofuSets sets = small_sets();
    const EvalLog log = run(Protocol::open_unlearning, sets, 8);
    const test::Threads three(3);
    const EvalLog again = run(Protocol::open_unlearning, sets, 8);
    for (const auto set : all_sets) EXPECT_EQ((again.*set).rows, (log.*set).rows);
    EXPECT_EQ(again.attacks, log.attacks);
}

TEST_F(Evaluate, LogsComeBackFromTheirFiles) {
    const TofuSets sets = small_sets();
    const EvalLog open = run(Protocol::open_unlearning, sets, 8);
    write_open_unlearning_log(folder_ / "open", open, nullptr);
    const EvalLog open_back = read_log(folder_ / "open");
    EXPECT_EQ(open_back.format, Protocol::open_unlearning);
    EXPECT_EQ(open_back.attacks, open.attacks);
    EXPECT_EQ(score(open_back, nullptr, {}), score(open, nullptr, {}));

    const EvalLog tofu = run(Protocol::tofu, sets);
    write_tofu_log(folder_ / "eval_log_aggregated.json", tofu);
    const EvalLog tofu_back = read_log(folder_ / "eval_log_aggregated.json");
    EXPECT_EQ(tofu_back.format, Protocol::tofu);
    const ScoreOptions options{Protocol::tofu, TruthRatio::geometric, false};
    EXPECT_EQ(score(tofu_back, nullptr, options), score(tofu, nullptr, options));
    for (std::size_t i = 0; i < sets.forget.size(); ++i) {
        EXPECT_EQ(tofu_back.forget.rows[i].answer.num_tokens, tofu.forget.rows[i].answer.num_tokens);
        EXPECT_EQ(tofu_back.forget.rows[i].generation, tofu.forget.rows[i].generation);
    }
}

TEST_F(Evaluate, WithoutGenerationScoresTheSameAnswers) {
    const TofuSets sets = small_sets();
    EvaluateOptions options;
    options.form = llama::prompt_template("llama2-chat");
    options.max_new_tokens = 12;
    options.generates = false;
    double done = 0;
    options.progress = [&](double share) { done = share; };
    const EvalLog log = evaluate(*model_, *tokenizer_, sets, options);
    EXPECT_EQ(done, 1.0);
    EvalLog whole = run(Protocol::open_unlearning, sets, 12);
    for (const auto set : all_sets) {
        for (RowScore& row : (whole.*set).rows) {
            EXPECT_NE(row.generation, "") << "or there is nothing to leave out";
            row.generation.clear();
            row.rouge1_recall = row.rougeL_recall = row.rougeL_f1 = 0;
        }
        EXPECT_EQ((log.*set).rows, (whole.*set).rows);
    }
    EXPECT_EQ(log.attacks, whole.attacks);
}

TEST_F(Evaluate, ReportsProgressToTheEnd) {
    EvaluateOptions options;
    options.form = llama::prompt_template("qa");
    options.max_new_tokens = 2;
    std::vector<double> shares;
    options.progress = [&](double done) { shares.push_back(done); };
    evaluate(*model_, *tokenizer_, small_sets(), options);
    ASSERT_FALSE(shares.empty());
    EXPECT_TRUE(std::is_sorted(shares.begin(), shares.end()));
    EXPECT_EQ(shares.back(), 1.0);
    EXPECT_LT(shares.front(), 0.5);
}

}  // namespace
}  // namespace uipe::eval
