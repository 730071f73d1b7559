#include "unlearn/report/run_record.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "tensor/base/error.h"
#include "tests/unlearn/report/run_fixture.h"
#include "unlearn/objective.h"

namespace uipe::unlearn {
namespace {

using testing::Scratch;

/// The message of the InputError that reading the run throws; "" when it throws none.
std::string fault_of(const fs::path& run) {
    try {
        read_run(run);
    } catch (const InputError& e) {
        return e.what();
    }
    return "";
}

TEST(RunRecord, NamesEveryMethodAsPapersDo) {
    for (const Objective& o : objectives()) {
        if (o.unlearns) {
            EXPECT_EQ(method_name(o.name), o.title);
        }
    }
    EXPECT_EQ(method_name("ceu"), "CE-U");
    EXPECT_EQ(method_name("frobnicate"), "frobnicate");
}

TEST(RunRecord, ReadsAWholeRun) {
    const Scratch scratch;
    testing::write_run(scratch.path / "npo", {.method = "npo_rt", .epochs = 11, .selected = 3, .alphas = {2, 0.5}});
    fs::create_directories(scratch.path / "npo/epochs/3.tmp-77");  // what a killed writer leaves behind
    const RunRecord run = read_run(scratch.path / "npo");
    EXPECT_EQ(run.label, "NPO-RT");
    EXPECT_EQ(run.setting("lr"), "0.0003");
    EXPECT_EQ(run.setting("betas"), "[0.9,0.999]");
    EXPECT_EQ(run.setting("nothing"), "");
    ASSERT_EQ(run.epochs.size(), 12u);
    for (int epoch = 0; epoch <= 11; ++epoch) EXPECT_EQ(run.epochs[epoch].epoch, epoch);  // 10 after 9, not after 1
    ASSERT_EQ(run.extrapolations.size(), 2u);
    EXPECT_EQ(run.extrapolations[0].alpha, 0.5);
    EXPECT_EQ(run.extrapolations[1].alpha, 2);
    EXPECT_EQ(run.steps.size(), 44u);
    EXPECT_EQ(run.tokens, 44 * 360);
    EXPECT_DOUBLE_EQ(run.seconds, 44 * 360 / 9000.0);
    ASSERT_TRUE(run.chosen());
    EXPECT_EQ(run.chosen()->epoch, 3);
}

TEST(RunRecord, EveryFileMayBeAbsent) {
    const Scratch scratch;
    const RunRecord run = read_run(scratch.path);
    EXPECT_EQ(run.label, scratch.path.filename().string());
    EXPECT_TRUE(run.epochs.empty());
    EXPECT_EQ(run.chosen(), nullptr);
    EXPECT_THROW(read_run(scratch.path / "none"), InputError);

    testing::write_run(scratch.path / "ga", {.epochs = 2, .selected = 0});
    EXPECT_EQ(read_run(scratch.path / "ga").chosen()->epoch, 2);
    fs::remove_all(scratch.path / "ga/epochs/2");
    fs::remove_all(scratch.path / "ga/epochs/1");
    EXPECT_EQ(read_run(scratch.path / "ga").chosen(), nullptr);  // epoch 0 is not unlearned
}

TEST(RunRecord, AFaultNamesItsFile) {
    const std::vector<std::pair<std::string, std::string>> faults = {
        {"config.json", "{\"lr\": "},
        {"config.json", "[1]"},
        {"metrics.jsonl", "{\"step\": 1, \"loss\": \"low\"}\n"},
        {"metrics.jsonl", "{\"loss\": 1}\n"},
        {"selection.json", "{\"epoch\": 1.5}"},
        {"selection.json", "{\"epoch\": -1}"},
        {"selection.json", "{\"epoch\": 1e300}"},
        {"selection.json", "{\"epoch\": 1, \"reason\": 7}"},
        {"epochs/1/TOFU_SUMMARY.json", "{\"forget_quality\": true}"},
        {"epochs/1/TOFU_EVAL.json", "{\"forget_truth_ratio\": {\"value_by_index\": [1]}}"},
        {"epochs/1/TOFU_EVAL.json", "{\"forget_truth_ratio\": {\"value_by_index\": {\"0\": 1}}}"},
        {"epochs/1/TOFU_EVAL.json", "{\"model_utility\": {\"agg_value\": []}}"},
        {"extrapolations/a/extrapolation.json", "{\"epoch\": 1}"},
        {"extrapolations/a/extrapolation.json", "{\"epoch\": 1, \"alpha\": 1e999}"}};
    for (const auto& [file, content] : faults) {
        const Scratch scratch;
        write_file(scratch.path / file, content);
        const std::string fault = fault_of(scratch.path);
        EXPECT_NE(fault.find(file), std::string::npos) << file << " " << content << " gave: " << fault;
        EXPECT_EQ(fault.find('\n'), std::string::npos);
    }
}

TEST(RunRecord, NullIsAnAbsentMetric) {
    const Scratch scratch;
    write_file(scratch.path / "epochs/1/TOFU_SUMMARY.json", "{\"forget_quality\": null, \"model_utility\": 0.5}");
    const RunRecord run = read_run(scratch.path);
    EXPECT_FALSE(run.epochs.at(0).evaluation.metric("forget_quality"));
    EXPECT_EQ(run.epochs.at(0).evaluation.metric("model_utility"), 0.5);
}

TEST(RunRecord, TheMedianComesFromTheRowsWhereTheSummaryLacksIt) {
    const Scratch scratch;
    write_file(scratch.path / "TOFU_SUMMARY.json", "{\"model_utility\": 0.5}");
    write_file(
        scratch.path / "TOFU_EVAL.json",
        "{\"model_utility\": {\"agg_value\": 0.7}, \"forget_truth_ratio\": {\"agg_value\": 0.4, \"value_by_index\": "
        "{\"0\": {\"score\": 0.9}, \"1\": {\"score\": 0.1}, \"2\": {\"score\": 0.3}, \"3\": {\"score\": 0.5}}}}");
    const EvaluationRecord both = read_evaluation(scratch.path);
    EXPECT_DOUBLE_EQ(*both.metric("forget_truth_ratio_median"), 0.4);
    EXPECT_EQ(both.metric("model_utility"), 0.5);  // the summary goes first
    EXPECT_EQ(read_evaluation(scratch.path / "TOFU_EVAL.json").metric("model_utility"), 0.7);
    EXPECT_THROW(read_evaluation(scratch.path / "none.json"), InputError);
}

TEST(RunRecord, AnswersLoseTheirPromptMarks) {
    const Scratch scratch;
    write_file(
        scratch.path / "TOFU_EVAL.json",
        "{\"q\": {\"value_by_index\": {\"3\": {\"input\": \"[INST] Who? [/INST]\", \"ground_truth\": \"A\", "
        "\"generation\": \"B\"}, \"10\": {\"input\": \"Question: Who?\"}, \"11\": {\"input\": \"[/INST] [INST]\"}}}}");
    const auto answers = read_answers(scratch.path, "q");
    ASSERT_EQ(answers.size(), 3u);
    EXPECT_EQ(answers.at(3).question, "Who?");
    EXPECT_EQ(answers.at(3).truth, "A");
    EXPECT_EQ(answers.at(10).question, "Question: Who?");
    EXPECT_EQ(answers.at(11).question, "[/INST] [INST]");
    EXPECT_TRUE(read_answers(scratch.path, "other").empty());
}

TEST(RunRecord, ReadsAPublishedLog) {
    const char* data = std::getenv("UIPE_DATA");
    if (data == nullptr) GTEST_SKIP() << "UIPE_DATA is not set: no published log to read";
    const fs::path folder = fs::path(data) / "logs/open-unlearning_llama2-7b_full_forget01";
    const EvaluationRecord evaluation = read_evaluation(folder);
    EXPECT_DOUBLE_EQ(*evaluation.metric("forget_quality"), 0.0012708143485281624);
    EXPECT_DOUBLE_EQ(*evaluation.metric("forget_truth_ratio"), 0.530570305552422);  // in the log alone
    EXPECT_TRUE(evaluation.metric("forget_truth_ratio_median"));
    const auto answers = read_answers(folder, "forget_Q_A_ROUGE");
    EXPECT_EQ(answers.size(), 40u);
    EXPECT_EQ(answers.at(0).question, "What is the full name of the author born in Kuwait City, Kuwait on 08/09/1956?");
}

}  // namespace
}  // namespace uipe::unlearn
