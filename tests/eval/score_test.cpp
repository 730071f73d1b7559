#include "eval/score.h"

#include <gtest/gtest.h>

#include "eval/score_json.h"
#include "tests/eval/message.h"
#include "tests/eval/sets.h"

namespace uipe::eval {
namespace {

const fs::path fixtures = fs::path(FIXTURES) / "eval";

/// A log with `n` forget rows, row i with losses that depend on i.
EvalLog forget_rows(std::size_t n, double shift) {
    EvalLog log;
    log.source = cat("log of ", n);
    for (std::size_t i = 0; i < n; ++i) {
        const double x = static_cast<double>(i) / 100 + shift;
        RowScore row;
        row.answer.avg_loss = x;
        row.paraphrase = row.answer;
        row.perturbed.resize(2);
        row.perturbed[0].avg_loss = 1;
        row.perturbed[1].avg_loss = 2;
        row.prompt = "q";
        row.ground_truth = row.generation = "a b";
        row.rouge1_recall = row.rougeL_recall = row.rougeL_f1 = 1;
        log.forget.rows.push_back(std::move(row));
    }
    return log;
}

// expected.json holds what a second implementation gets from the same logs.
TEST(Score, EqualsTheFixtureUnderEveryProtocolAndTruthRatio) {
    const Json expected = read_json(fixtures / "expected.json");
    std::size_t compared = 0;
    for (const auto& [protocol, protocol_name] :
         {std::pair{Protocol::tofu, "tofu"}, {Protocol::open_unlearning, "open-unlearning"}})
        for (const auto& [kind, kind_name] : {std::pair{TruthRatio::geometric, "geometric"},
                                              {TruthRatio::arithmetic, "arithmetic"},
                                              {TruthRatio::prob_mean, "prob_mean"}})
            for (const bool recompute_rouge : {false, true}) {
                const EvalLog log = read_log(fixtures / "unlearned"), retain = read_log(fixtures / "retain");
                const Scores got = score(log, &retain, {protocol, kind, recompute_rouge});
                const Json& wanted = expected.at(cat(protocol_name, " ", kind_name));
                ASSERT_EQ(got.size(), wanted.size());
                for (const auto& [name, value] : wanted.items()) {
                    EXPECT_NEAR(got.at(name), value, 1e-12 * std::abs(value.get<double>())) << name;
                    ++compared;
                }
            }
    EXPECT_EQ(compared, 12u * 26u);
}

TEST(Score, IsTheSameFromBothFormats) {
    for (const auto protocol : {Protocol::tofu, Protocol::open_unlearning}) {
        const ScoreOptions options{protocol, TruthRatio::geometric, false};
        const EvalLog retain = read_log(fixtures / "retain");
        const Scores a = score(read_log(fixtures / "unlearned" / "TOFU_EVAL.json"), &retain, options);
        const Scores b = score(read_log(fixtures / "unlearned" / "eval_log_aggregated.json"), &retain, options);
        for (const auto& [name, value] : b) EXPECT_DOUBLE_EQ(a.at(name), value) << name;
        EXPECT_EQ(a.size() - b.size(), 4u);  // privleak, two attacks and a column exist in one format only
    }
}

TEST(Score, TofuTakesTheFirst300Rows) {
    const EvalLog log = forget_rows(400, 0), first = forget_rows(300, 0);
    const ScoreOptions tofu{Protocol::tofu, TruthRatio::geometric, false};
    EXPECT_EQ(score(log, &first, tofu), score(first, &log, tofu));
    EXPECT_NE(score(log, nullptr, {}), score(first, nullptr, {}));
}

TEST(Score, RefusesARetainLogOfAnotherLength) {
    const EvalLog log = forget_rows(40, 0), other = forget_rows(200, 0), none;
    EXPECT_TRUE(contains(input_error([&] { score(log, &other, {}); }),
                         "log of 40 has 40 forget rows, the retain log log of 200 has 200; take the retain log of"));
    EXPECT_TRUE(contains(input_error([&] { score(log, &none, {}); }), "has 0"));
}

TEST(Score, LeavesOutWhatTheLogCannotGive) {
    const EvalLog log = forget_rows(40, 0);
    const Scores scores = score(log, nullptr, {});
    EXPECT_TRUE(scores.contains("forget_truth_ratio"));
    for (const char* name : {"forget_quality", "model_utility", "retain_Q_A_Prob", "privleak"})
        EXPECT_FALSE(scores.contains(name)) << name;

    EvalLog plain = log;
    for (RowScore& row : plain.forget.rows) row.perturbed.clear();
    const Scores fewer = score(plain, nullptr, {});
    EXPECT_TRUE(fewer.contains("forget_Q_A_Prob"));
    EXPECT_TRUE(fewer.contains("forget_Q_A_PARA_Prob"));
    EXPECT_FALSE(fewer.contains("forget_truth_ratio"));
    EXPECT_FALSE(fewer.contains("forget_Q_A_PERT_Prob"));
    EXPECT_TRUE(contains(input_error([&] { score(plain, &log, {}); }), "log of 40: forget row 0 has no scores of"));
    EXPECT_TRUE(score(EvalLog{}, nullptr, {}).empty());
}

TEST(Score, RougeIsRecomputedFromTheTextsOnRequest) {
    EvalLog log = forget_rows(2, 0);
    log.forget.rows[0].rougeL_recall = 0.25;
    EXPECT_EQ(score(log, nullptr, {}).at("forget_Q_A_ROUGE"), 0.625);
    EXPECT_EQ(score(log, nullptr, {Protocol::tofu, TruthRatio::geometric, true}).at("forget_Q_A_ROUGE"), 1);
}

TEST(Score, RougeAgainstParaphrasedAndPerturbedAnswersIsThatOfTheOneGeneration) {
    EvalLog log = forget_rows(2, 0);  // each says "a b"
    log.forget.rows[0].paraphrase->text = {"a b c d", {1, 0.5, 0.7}};
    log.forget.rows[1].paraphrase->text = {"b", {1, 1, 0.7}};
    EXPECT_FALSE(score(log, nullptr, {}).contains("forget_Q_A_PERT_ROUGE"));
    for (RowScore& row : log.forget.rows)
        for (AnswerScore& answer : row.perturbed) answer.text = {"b a", {1, 0.25, 0.5}};
    log.forget.rows[1].perturbed[1].text = {"c", {0, 0, 0}};
    const Scores scores = score(log, nullptr, {});
    EXPECT_EQ(scores.at("forget_Q_A_PARA_ROUGE"), (0.5 + 1) / 2);
    EXPECT_EQ(scores.at("forget_Q_A_PERT_ROUGE"), (0.25 + 0.125) / 2);
    const Scores again = score(log, nullptr, {Protocol::open_unlearning, TruthRatio::geometric, true});
    EXPECT_EQ(again.at("forget_Q_A_PARA_ROUGE"), (0.5 + 1) / 2);
    EXPECT_EQ(again.at("forget_Q_A_PERT_ROUGE"), (0.5 + 0.25) / 2);  // "b a" and "a b" have one word in order
    log.forget.rows[0].perturbed[0].text.reset();
    EXPECT_FALSE(score(log, nullptr, {}).contains("forget_Q_A_PERT_ROUGE"));
}

TEST(Score, ACollapsedModelScoresZeroNotNan) {
    EvalLog log = read_log(fixtures / "unlearned" / "eval_log_aggregated.json");
    for (const auto set : all_sets)
        for (RowScore& row : (log.*set).rows) {
            row.answer.avg_loss = 3000;
            row.paraphrase->avg_loss = 3000;
            for (AnswerScore& answer : row.perturbed) answer.avg_loss = 1000;
        }
    for (const auto protocol : {Protocol::tofu, Protocol::open_unlearning})
        for (const auto kind : {TruthRatio::geometric, TruthRatio::arithmetic, TruthRatio::prob_mean}) {
            const Scores scores = score(log, &log, {protocol, kind, false});
            for (const auto& [name, value] : scores) EXPECT_TRUE(std::isfinite(value)) << name;
            EXPECT_EQ(scores.at("model_utility"), 0);
            EXPECT_EQ(scores.at("forget_quality"), 1);
        }
}

TEST(Score, BecomesJson) { EXPECT_EQ(to_json(Scores{{"b", 0.5}, {"a", 1}}).dump(), R"({"a":1.0,"b":0.5})"); }

}  // namespace
}  // namespace uipe::eval
