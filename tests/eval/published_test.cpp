// The published logs of Llama-2-7B: every score in them must come out again.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>

#include "eval/qa.h"
#include "eval/rouge.h"
#include "eval/score.h"
#include "eval/token_metrics.h"
#include "llama/prompt_template.h"
#include "tensor/base/error.h"
#include "tensor/base/json.h"
#include "tests/eval/sets.h"

namespace uipe::eval {
namespace {

constexpr const char* tofu_logs[] = {"full", "retain90", "retain95", "retain99"};
constexpr const char* open_unlearning_logs[] = {"full_forget01", "retain99"};
constexpr ScoreOptions tofu_options{Protocol::tofu, TruthRatio::geometric, false};

class Published : public testing::Test {
protected:
    void SetUp() override {
        const char* data = std::getenv("UIPE_DATA");
        if (!data) GTEST_SKIP() << "UIPE_DATA is not set: the published evaluation logs are not here";
        data_ = data;
        logs_ = data_ / "logs";
        made_ = fs::path(testing::TempDir()) / cat("published_test_", ::getpid());
        fs::create_directories(made_);
    }
    void TearDown() override {
        if (!made_.empty()) fs::remove_all(made_);
    }
    fs::path tofu_path(const std::string& name) const { return logs_ / ("tofu_llama2-7b_" + name); }
    fs::path open_unlearning_path(const std::string& name) const {
        return logs_ / ("open-unlearning_llama2-7b_" + name);
    }
    EvalLog tofu(const std::string& name) const { return read_log(tofu_path(name)); }
    EvalLog open_unlearning(const std::string& name) const { return read_log(open_unlearning_path(name)); }

    fs::path data_, logs_, made_;
};

TEST_F(Published, EveryRougeScoreIsReproduced) {
    std::size_t rows = 0;
    const auto check = [&](const EvalLog& log) {
        for (const auto set : all_sets)
            for (const RowScore& row : (log.*set).rows) {
                const Rouge got = rouge(row.ground_truth, row.generation);
                EXPECT_EQ(got.rouge1_recall, row.rouge1_recall) << row.generation;
                EXPECT_EQ(got.rougeL_recall, row.rougeL_recall) << row.generation;
                EXPECT_EQ(got.rougeL_f1, row.rougeL_f1) << row.generation;
                ++rows;
            }
    };
    for (const char* name : tofu_logs) check(tofu(name));
    EXPECT_EQ(rows, 2908u);
    for (const char* name : open_unlearning_logs) check(open_unlearning(name));
    EXPECT_EQ(rows, 2908u + 1314u);
}

TEST_F(Published, EveryOpenUnlearningAggregateIsReproduced) {
    const EvalLog retain = open_unlearning("retain99");
    for (const char* name : open_unlearning_logs) {
        const EvalLog log = open_unlearning(name);
        const bool is_full = std::string(name) == "full_forget01";
        Scores got = score(log, is_full ? &retain : nullptr, {});
        // A log made without a retain log states privleak against an AUC of one half.
        if (!is_full) got["privleak"] = (0.5 - got.at("mia_min_k")) / (0.5 + 1e-10) * 100;
        ASSERT_EQ(log.aggregates.size(), is_full ? 31u : 29u);
        for (const auto& [metric, value] : log.aggregates)
            EXPECT_NEAR(got.at(metric), value, 1e-12 * std::abs(value)) << name << " " << metric;
        EXPECT_EQ(got.size(), log.aggregates.size());
    }
}

TEST_F(Published, EveryRowOfAWrittenOpenUnlearningLogIsAsPublished) {
    const EvalLog log = open_unlearning("full_forget01"), retain = open_unlearning("retain99");
    write_open_unlearning_log(made_, log, &retain);
    const std::function<void(const Json&, const Json&, const std::string&)> compare =
        [&](const Json& wanted, const Json& got, const std::string& place) {
            if (wanted.is_structured()) {
                ASSERT_EQ(got.size(), wanted.size()) << place;
                for (const auto& [key, value] : wanted.items())
                    compare(value, wanted.is_array() ? got.at(std::stoul(key)) : got.at(key), place + "/" + key);
            } else if (wanted.is_number()) {
                // The mean of an attack over one half was taken in f32 by the publisher.
                const bool f32 = place.starts_with("/mia_") && place.ends_with("/agg_value") &&
                                 std::count(place.begin(), place.end(), '/') == 3;
                EXPECT_NEAR(got, wanted, (f32 ? 3e-7 : 1e-12) * std::abs(wanted.get<double>())) << place;
            } else {
                EXPECT_EQ(got, wanted) << place;
            }
        };
    const Json file = read_json(open_unlearning_path("full_forget01") / "TOFU_EVAL.json");
    compare(file, read_json(made_ / "TOFU_EVAL.json"), "");
    Json summary = read_json(made_ / "TOFU_SUMMARY.json");
    EXPECT_EQ(summary.erase("forget_truth_ratio"), 1u);  // the one we add
    compare(read_json(open_unlearning_path("full_forget01") / "TOFU_SUMMARY.json"), summary, "");
}

// The logs hold loss and loss over bytes of the same rows, and shares of the tokens of each answer.
TEST_F(Published, TheTextThatZlibCompressesAndTheTokensThatAreCountedAreOurs) {
    const auto tokenizer = llama::Tokenizer::load(data_ / "llama2_tokenizer");
    const auto sequences = [&](const char* set) {
        std::vector<llama::Sequence> out;
        for (const QaRow& row : read_qa(data_ / "tofu" / set, answers_only))
            out.push_back(
                llama::encode_qa(tokenizer, llama::prompt_template("llama2-chat"), row.question, row.answer, 513));
        return out;
    };
    const auto forget = sequences("forget01.json"), holdout = sequences("holdout01.json");
    const auto is_whole = [](double x) { return std::abs(x - std::round(x)) < 1e-5; };  // some shares are f32
    for (const char* name : open_unlearning_logs) {
        const EvalLog log = open_unlearning(name);
        const auto expect_bytes = [&](const auto& rows, std::vector<double> Attack::*side) {
            const auto& losses = log.attacks.at("mia_loss").*side;
            const auto& scores = log.attacks.at("mia_zlib").*side;
            ASSERT_EQ(rows.size(), losses.size());
            for (std::size_t i = 0; i < rows.size(); ++i) {
                const std::vector<std::int32_t> targets(rows[i].ids.begin() + rows[i].first_target, rows[i].ids.end());
                const std::vector<llama::TokenScore> tokens{{-losses[i]}};
                EXPECT_NEAR(mia_zlib(tokens, tokenizer.decode(targets)), scores[i], 1e-12 * scores[i]) << i;
            }
        };
        expect_bytes(forget, &Attack::forget);
        expect_bytes(holdout, &Attack::holdout);
        for (const char* column : {"exact_memorization", "extraction_strength"})
            for (std::size_t i = 0; i < forget.size(); ++i) {
                const auto n =
                    static_cast<double>(forget[i].ids.size()) - static_cast<double>(forget[i].first_target) - 1;
                EXPECT_TRUE(is_whole(log.columns.at(column).at(i) * n)) << name << " " << column << " " << i;
            }
    }
}

TEST_F(Published, TofuTruthRatiosAndNormalisedLossesAreReproducedToF32) {
    const Json json = read_json(tofu_path("full") / "eval_log_aggregated.json");
    const EvalLog log = tofu("full");
    const auto column = [&](const char* set, const char* name, std::size_t i) {
        return json.at(set).at(name).at(std::to_string(i)).get<double>();
    };
    for (std::size_t i = 0; i < log.forget.rows.size(); ++i) {
        const double wanted = column("eval_log_forget.json", "truth_ratio", i);
        EXPECT_NEAR(truth_ratio(log.forget.rows[i], TruthRatio::geometric, Protocol::tofu), wanted, 3e-6 * wanted);
    }
    for (std::size_t i = 0; i < log.world_facts.rows.size(); ++i)
        EXPECT_NEAR(-std::log(normalised_probability(log.world_facts.rows[i], Protocol::tofu)),
                    column("eval_real_world_wo_options.json", "normalized_gt_loss", i), 3e-6);
}

TEST_F(Published, TofuLeaderboardValuesAreReproduced) {
    const EvalLog retain90 = tofu("retain90");
    const Scores full = score(tofu("full"), &retain90, tofu_options);
    EXPECT_NEAR(full.at("model_utility"), .6227, 5e-5);
    EXPECT_NEAR(full.at("forget_Q_A_Prob"), .9909, 5e-5);
    EXPECT_NEAR(full.at("forget_Q_A_ROUGE"), .9854, 5e-5);
    EXPECT_NEAR(full.at("forget_truth_ratio"), .516, 5e-4);
    EXPECT_NEAR(full.at("forget_quality"), 1.83407e-21, 1e-26);
    const Scores retain = score(retain90, nullptr, tofu_options);
    EXPECT_NEAR(retain.at("model_utility"), .6137, 5e-5);
    EXPECT_NEAR(retain.at("forget_Q_A_Prob"), .1476, 5e-5);
    EXPECT_NEAR(retain.at("forget_Q_A_ROUGE"), .4082, 5e-5);
    EXPECT_NEAR(retain.at("forget_truth_ratio"), .674, 5e-4);
    EXPECT_NEAR(score(tofu("retain95"), nullptr, tofu_options).at("model_utility"), .6006, 5e-5);
    EXPECT_NEAR(score(tofu("retain99"), nullptr, tofu_options).at("model_utility"), .6207, 5e-5);
    // The paper's own, arithmetic definition of the truth ratio gives another utility.
    const ScoreOptions arithmetic{Protocol::tofu, TruthRatio::arithmetic, false};
    EXPECT_NEAR(score(tofu("full"), nullptr, arithmetic).at("model_utility"), .5859, 5e-5);
    EXPECT_EQ(score(retain90, &retain90, tofu_options).at("forget_quality"), 1);
}

TEST_F(Published, TofuLogsSurviveARoundTrip) {
    for (const char* name : tofu_logs) {
        const EvalLog log = tofu(name);
        write_tofu_log(made_ / "eval_log_aggregated.json", log);
        const EvalLog again = read_log(made_);
        for (const auto set : all_sets) EXPECT_TRUE(again.*set == log.*set) << name;
    }
}

}  // namespace
}  // namespace uipe::eval
