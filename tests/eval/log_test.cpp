#include "eval/log.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <functional>

#include "eval/score.h"
#include "tensor/base/error.h"
#include "tensor/base/json.h"
#include "tests/eval/message.h"
#include "tests/eval/sets.h"

namespace uipe::eval {
namespace {

const fs::path fixture = fs::path(FIXTURES) / "eval" / "unlearned";
const fs::path tofu_fixture = fixture / "eval_log_aggregated.json";
const fs::path open_unlearning_fixture = fixture / "TOFU_EVAL.json";

class LogFile : public testing::Test {
protected:
    LogFile() : folder_(fs::path(testing::TempDir()) / cat("log_test_", ::getpid())) {
        fs::create_directories(folder_);
    }
    ~LogFile() override { fs::remove_all(folder_); }

    /// Reads a fixture with one change made to it.
    EvalLog read_changed(const fs::path& log, const std::function<void(Json&)>& change) const {
        Json json = read_json(log);
        change(json);
        write_json(folder_ / "changed.json", json);
        return read_log(folder_ / "changed.json");
    }
    std::string error(const fs::path& log, const std::function<void(Json&)>& change) const {
        return input_error([&] { read_changed(log, change); });
    }

    fs::path folder_;
};

void expect_same_rows(const EvalLog& a, const EvalLog& b) {
    EXPECT_EQ(a.format, b.format);
    EXPECT_TRUE(a.forget == b.forget);
    EXPECT_TRUE(a.retain == b.retain);
    EXPECT_TRUE(a.real_authors == b.real_authors);
    EXPECT_TRUE(a.world_facts == b.world_facts);
    EXPECT_EQ(a.columns, b.columns);
    EXPECT_TRUE(a.attacks == b.attacks);
}

TEST_F(LogFile, BothFormatsHoldTheSameEvaluation) {
    const EvalLog tofu = read_log(tofu_fixture), open_unlearning = read_log(open_unlearning_fixture);
    EXPECT_EQ(tofu.format, Protocol::tofu);
    EXPECT_EQ(open_unlearning.format, Protocol::open_unlearning);
    for (const auto set : all_sets) {
        const auto &a = (tofu.*set).rows, &b = (open_unlearning.*set).rows;
        ASSERT_EQ(a.size(), b.size());
        for (std::size_t i = 0; i < a.size(); ++i) {
            EXPECT_EQ(a[i].answer.avg_loss, b[i].answer.avg_loss);
            EXPECT_GT(a[i].answer.num_tokens, 0);
            EXPECT_EQ(b[i].answer.num_tokens, 0);
            ASSERT_EQ(a[i].perturbed.size(), b[i].perturbed.size());
            EXPECT_EQ(a[i].perturbed.back().avg_loss, b[i].perturbed.back().avg_loss);
            EXPECT_EQ(a[i].prompt, b[i].prompt);
            EXPECT_EQ(a[i].generation, b[i].generation);
            EXPECT_EQ(a[i].ground_truth, b[i].ground_truth);
            EXPECT_EQ(a[i].rougeL_recall, b[i].rougeL_recall);
            EXPECT_DOUBLE_EQ(a[i].rougeL_f1, b[i].rougeL_f1);  // one computed from the texts, one read
        }
    }
    EXPECT_EQ(open_unlearning.forget.rows[0].prompt, "[INST] forget row 0 é? [/INST]");
    EXPECT_EQ(open_unlearning.attacks.at("mia_min_k").holdout.size(), 6u);
    EXPECT_EQ(open_unlearning.columns.at("extraction_strength").size(), 6u);
    EXPECT_FALSE(open_unlearning.aggregates.contains("forget_quality"));  // null in the file
}

TEST_F(LogFile, TofuLogSurvivesARoundTrip) {
    const EvalLog log = read_log(tofu_fixture);
    write_tofu_log(folder_ / "eval_log_aggregated.json", log);
    expect_same_rows(read_log(folder_), log);
    // The columns that are not read back are those of the publisher too.
    const Json before = read_json(tofu_fixture), after = read_json(folder_ / "eval_log_aggregated.json");
    for (const auto& [set, columns] : before.items())
        for (const auto& [name, column] : columns.items())
            for (const auto& [row, value] : column.items()) {
                const Json& got = after.at(set).at(name).at(row);
                if (value.is_number_float()) {
                    EXPECT_DOUBLE_EQ(got, value) << name;
                } else if (name != "perturb_loss") {
                    EXPECT_EQ(got, value) << name;
                }
            }
}

TEST_F(LogFile, OpenUnlearningLogSurvivesARoundTrip) {
    const EvalLog log = read_log(open_unlearning_fixture), retain = read_log(fixture.parent_path() / "retain");
    write_open_unlearning_log(folder_ / "made", log, &retain);
    const EvalLog again = read_log(folder_ / "made");
    expect_same_rows(again, log);
    for (const auto& [name, value] : log.aggregates) EXPECT_NEAR(again.aggregates.at(name), value, 1e-12) << name;
    EXPECT_TRUE(again.aggregates.contains("forget_quality"));
    EXPECT_TRUE(again.aggregates.contains("privleak"));

    const Json file = read_json(folder_ / "made" / "TOFU_EVAL.json");
    std::vector<std::string> names;
    for (const auto& [name, metric] : file.items()) names.push_back(name);
    EXPECT_TRUE(std::is_sorted(names.begin(), names.end()));
    const Json summary = read_json(folder_ / "made" / "TOFU_SUMMARY.json");
    for (const auto& [name, value] : summary.items()) EXPECT_EQ(value, file.at(name).at("agg_value")) << name;
    for (const char* name : {"forget_quality", "forget_Q_A_ROUGE", "forget_truth_ratio", "model_utility", "mia_loss"})
        EXPECT_TRUE(summary.contains(name)) << name;
}

/// The fixture's log with texts beside the paraphrased and perturbed answers of the forget set.
EvalLog log_with_texts() {
    EvalLog log = read_log(open_unlearning_fixture);
    for (RowScore& row : log.forget.rows) {
        const auto fill = [&](AnswerScore& answer, const std::string& text) {
            answer.text = {text, rouge(text, row.generation)};
        };
        fill(*row.paraphrase, row.ground_truth + " or so");
        for (AnswerScore& answer : row.perturbed) fill(answer, row.ground_truth.substr(0, 8) + " é");
    }
    return log;
}

TEST_F(LogFile, RougeOfParaphrasedAndPerturbedAnswersSurvivesARoundTrip) {
    const EvalLog log = log_with_texts();
    write_open_unlearning_log(folder_, log, nullptr);
    const EvalLog again = read_log(folder_);
    expect_same_rows(again, log);
    double sum = 0;
    for (const RowScore& row : log.forget.rows) sum += row.perturbed[0].text->rouge.rougeL_recall;
    const Scores scores = score(again, nullptr, {});
    EXPECT_DOUBLE_EQ(scores.at("forget_Q_A_PERT_ROUGE"), sum / 6);
    EXPECT_EQ(scores.count("retain_Q_A_PARA_ROUGE"), 0u);
    const Json row = read_json(folder_ / "TOFU_EVAL.json")["forget_Q_A_PERT_ROUGE"]["value_by_index"]["2"];
    for (const char* key : {"generation", "ground_truth", "input", "rouge1_recall", "rougeL_f1", "rougeL_recall"})
        EXPECT_EQ(row.at(key).size(), 5u) << key;
    EXPECT_EQ(row["generation"][4], log.forget.rows[2].generation);
}

TEST_F(LogFile, RefusesDamagedTexts) {
    const auto damage = [&](const char* metric, const char* key, const Json& value) {
        write_open_unlearning_log(folder_, log_with_texts(), nullptr);
        return error(folder_ / "TOFU_EVAL.json", [&](Json& json) { json[metric]["value_by_index"]["1"][key] = value; });
    };
    EXPECT_TRUE(contains(damage("forget_Q_A_PARA_ROUGE", "rougeL_f1", "x"), "/1/rougeL_f1 is of type string"));
    EXPECT_TRUE(contains(damage("forget_Q_A_PERT_ROUGE", "rougeL_f1", {0.5, 0.5}),
                         "/forget_Q_A_PERT_ROUGE/value_by_index/1/rougeL_f1 has 2 entries; its row has 5 perturbed"));
    EXPECT_TRUE(contains(damage("forget_Q_A_PERT_ROUGE", "ground_truth", "x"), "/1/ground_truth is of type string"));
}

TEST_F(LogFile, AggregatesThatCannotBeComputedAreKept) {
    EvalLog log = read_changed(open_unlearning_fixture, [](Json& json) {
        json["forget_quality"]["agg_value"] = 0.25;
        json["forget_Q_A_gibberish"]["agg_value"] = 0.5;
    });
    write_open_unlearning_log(folder_, log, nullptr);
    const EvalLog again = read_log(folder_);
    EXPECT_EQ(again.aggregates.at("forget_quality"), 0.25);
    EXPECT_EQ(again.aggregates.at("forget_Q_A_gibberish"), 0.5);
}

TEST_F(LogFile, ReadsArraysForColumns) {
    const EvalLog log = read_changed(tofu_fixture, [](Json& json) {
        for (auto& set : json)
            for (auto& column : set) {
                Json array = Json::array();
                for (const auto& value : column) array.push_back(value);
                column = array;
            }
    });
    expect_same_rows(log, read_log(tofu_fixture));
}

TEST_F(LogFile, RowsAreReadByTheirNumbers) {
    const EvalLog log = read_changed(open_unlearning_fixture, [](Json& json) {
        Json& rows = json["forget_Q_A_Prob"]["value_by_index"];
        Json reversed = Json::object();
        for (std::size_t i = rows.size(); i-- > 0;) reversed[std::to_string(i)] = rows[std::to_string(i)];
        rows = reversed;
    });
    expect_same_rows(log, read_log(open_unlearning_fixture));
}

TEST_F(LogFile, AbsentSetsAndAnswersAreEmpty) {
    const EvalLog tofu = read_changed(tofu_fixture, [](Json& json) { json.erase("eval_log.json"); });
    EXPECT_TRUE(tofu.retain.rows.empty());
    EXPECT_EQ(tofu.forget.rows.size(), 6u);
    const EvalLog open_unlearning = read_changed(open_unlearning_fixture, [](Json& json) {
        for (const char* name :
             {"ra_Q_A_Prob", "ra_Q_A_PERT_Prob", "ra_Q_A_ROUGE", "retain_Q_A_PERT_Prob", "retain_Q_A_PARA_Prob"})
            json.erase(name);
    });
    EXPECT_TRUE(open_unlearning.real_authors.rows.empty());
    ASSERT_EQ(open_unlearning.retain.rows.size(), 4u);
    EXPECT_TRUE(open_unlearning.retain.rows[0].perturbed.empty());
    EXPECT_FALSE(open_unlearning.retain.rows[0].paraphrase);
}

TEST_F(LogFile, RefusesDamagedTofuLogs) {
    const auto damage = [&](const char* column, const Json& value) {
        return error(tofu_fixture, [&](Json& json) { json["eval_log_forget.json"][column]["3"] = value; });
    };
    EXPECT_TRUE(
        contains(damage("avg_gt_loss", nullptr),
                 "changed.json:/eval_log_forget.json/avg_gt_loss/3 is of type null, a finite number is needed"));
    EXPECT_TRUE(contains(damage("num_token_gt", 0), "/num_token_gt/3 is of type number, a count"));
    EXPECT_TRUE(contains(damage("num_token_gt", 1.5), "a count from 1 to 2^31 is needed"));
    EXPECT_TRUE(contains(damage("num_token_gt", ~std::uint64_t{0}), "a count from 1 to 2^31 is needed"));
    EXPECT_TRUE(contains(damage("generated_text", "text"), "/generated_text/3 is of type string, an array"));
    EXPECT_TRUE(contains(damage("generated_text", {"a", "b"}), "has 2 texts, 3 are needed"));
    EXPECT_TRUE(contains(damage("generated_text", {"a", "b", 3}), "/generated_text/3/2 is of type number"));
    EXPECT_TRUE(contains(damage("average_perturb_loss", {1.0, "x", 1.0, 1.0, 1.0}), "/average_perturb_loss/3/1"));
    EXPECT_TRUE(contains(damage("average_perturb_loss", {1.0, 1.0}), "has 2 losses"));
    EXPECT_TRUE(contains(damage("average_perturb_loss", Json::array()), "has 0 losses"));
    EXPECT_TRUE(contains(error(tofu_fixture, [](Json& json) { json["eval_log.json"].erase("rouge1_recall"); }),
                         "changed.json:/eval_log.json has no `rouge1_recall`"));
    EXPECT_TRUE(contains(error(tofu_fixture, [](Json& json) { json["eval_log.json"] = 1; }), "an object is needed"));
}

TEST_F(LogFile, RefusesGapsInRows) {
    const auto rename = [&](const char* from, const char* to) {
        return error(open_unlearning_fixture, [&](Json& json) {
            Json& rows = json["forget_Q_A_Prob"]["value_by_index"];
            const Json row = rows[from];
            rows.erase(from);
            rows[to] = row;
        });
    };
    EXPECT_TRUE(
        contains(rename("2", "6"), "/forget_Q_A_Prob/value_by_index has the key `6`; rows are numbered 0 to 5"));
    EXPECT_TRUE(contains(rename("2", "02x"), "has the key `02x`"));
    EXPECT_TRUE(contains(rename("2", "-2"), "has the key `-2`"));
    EXPECT_TRUE(contains(rename("2", "99999999999999999999999"), "has the key `9999"));
    EXPECT_TRUE(contains(rename("2", "01"), "has the key `01`"));  // the number of another row
    EXPECT_TRUE(contains(
        error(open_unlearning_fixture, [](Json& json) { json["forget_Q_A_ROUGE"]["value_by_index"].erase("5"); }),
        "/forget_Q_A_ROUGE/value_by_index has 5 rows, its set has 6"));
}

TEST_F(LogFile, RefusesDamagedOpenUnlearningLogs) {
    const auto damage = [&](const std::function<void(Json&)>& change) {
        return error(open_unlearning_fixture, change);
    };
    EXPECT_TRUE(contains(damage([](Json& json) { json.erase("forget_Q_A_ROUGE"); }), "has no `forget_Q_A_ROUGE`"));
    EXPECT_TRUE(contains(damage([](Json& json) { json["forget_Q_A_Prob"]["value_by_index"]["1"].erase("prob"); }),
                         "/forget_Q_A_Prob/value_by_index/1 has no `prob`"));
    EXPECT_TRUE(
        contains(damage([](Json& json) { json["wf_Q_A_PERT_Prob"]["value_by_index"]["0"]["prob"].push_back(1.0); }),
                 "/wf_Q_A_PERT_Prob/value_by_index/0 has 3 losses and 4 probabilities"));
    EXPECT_TRUE(contains(damage([](Json& json) { json["mia_loss"]["holdout"]["value_by_index"] = Json::object(); }),
                         "/mia_loss/holdout has no rows"));
    EXPECT_TRUE(contains(damage([](Json& json) { json["mia_loss"].erase("forget"); }), "/mia_loss has no `forget`"));
    EXPECT_TRUE(contains(damage([](Json& json) { json["forget_Q_A_Prob"]["value_by_index"]["1"]["avg_loss"] = -5; }),
                         "/forget_Q_A_Prob/value_by_index/1: avg_loss is -5"));
    EXPECT_TRUE(contains(damage([](Json& json) { json["wf_Q_A_PERT_Prob"]["value_by_index"]["0"]["prob"][2] = 2.5; }),
                         "/wf_Q_A_PERT_Prob/value_by_index/0: prob is 2.5"));
    EXPECT_TRUE(contains(damage([](Json& json) { json["model_utility"]["agg_value"] = "0.5"; }),
                         "/model_utility/agg_value is of type string, a finite number is needed"));
}

TEST_F(LogFile, RefusesWhatIsNoLog) {
    const auto read_text = [&](const char* text) {
        write_file(folder_ / "text.json", text);
        return input_error([&] { read_log(folder_ / "text.json"); });
    };
    EXPECT_TRUE(contains(read_text("{}"), "no rows of any evaluation set"));
    EXPECT_TRUE(contains(read_text("[1, 2]"), "an object is needed"));
    EXPECT_TRUE(contains(read_text("3"), "an object is needed"));
    EXPECT_TRUE(contains(read_text(R"({"model_utility": 0.6})"), "/model_utility is of type number, an object"));
    EXPECT_TRUE(contains(read_text(R"({"model_utility": {"agg_value": NaN}})"), "JSON fault at byte"));
    EXPECT_TRUE(contains(read_text(R"({"model_utility": {"agg_value": 1e999}})"), "JSON fault"));
    fs::create_directories(folder_ / "empty");
    EXPECT_TRUE(contains(input_error([&] { read_log(folder_ / "empty"); }), "holds neither TOFU_EVAL.json nor"));
    EXPECT_THROW(read_log(folder_ / "missing.json"), InputError);
}

TEST_F(LogFile, TofuFormatNeedsTokenCountsAndPerturbedAnswers) {
    EXPECT_TRUE(contains(input_error([&] { write_tofu_log(folder_ / "x.json", read_log(open_unlearning_fixture)); }),
                         "TOFU_EVAL.json: row 0 of eval_log.json has no token counts"));
    EvalLog log = read_log(tofu_fixture);
    log.forget.rows[4].perturbed.clear();
    EXPECT_TRUE(contains(input_error([&] { write_tofu_log(folder_ / "x.json", log); }),
                         "row 4 of eval_log_forget.json has no perturbed answers"));
    EXPECT_FALSE(fs::exists(folder_ / "x.json"));
}

TEST_F(LogFile, TofuFormatHoldsACollapsedModel) {
    EvalLog log = read_log(tofu_fixture);
    log.forget.rows[0].paraphrase->avg_loss = 2000;
    log.world_facts.rows[0].answer.avg_loss = 2000;
    write_tofu_log(folder_ / "collapsed.json", log);
    expect_same_rows(read_log(folder_ / "collapsed.json"), log);
    const Json json = read_json(folder_ / "collapsed.json");
    EXPECT_TRUE(json["eval_log_forget.json"]["truth_ratio"]["0"].is_number());
    EXPECT_TRUE(json["eval_real_world_wo_options.json"]["normalized_gt_loss"]["0"].is_number());
}

}  // namespace
}  // namespace uipe::eval
