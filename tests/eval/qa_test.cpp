#include "eval/qa.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>

#include "tensor/base/error.h"
#include "tests/eval/message.h"

namespace uipe::eval {
namespace {

class QaFile : public testing::Test {
protected:
    QaFile() : path_(fs::path(testing::TempDir()) / cat(::getpid(), "-qa_test.json")) {}
    ~QaFile() override { fs::remove(path_); }

    std::vector<QaRow> rows(const std::string& text, QaNeeds needs = answers_only) const {
        write_file(path_, text);
        return read_qa(path_, needs);
    }
    std::string error(const std::string& text, QaNeeds needs = answers_only) const {
        return input_error([&] { rows(text, needs); });
    }

    fs::path path_;
};

TEST_F(QaFile, ReadsJsonLinesWithEscapes) {
    const auto got = rows(R"({"question":"Who is Jos\u00e9?","answer":"A \ud83d\ude00 08\/09"})"
                          "\n\n"
                          R"({"question":"2","answer":"b"})");
    ASSERT_EQ(got.size(), 2u);
    EXPECT_EQ(got[0].question, "Who is José?");
    EXPECT_EQ(got[0].answer, "A 😀 08/09");
    EXPECT_EQ(got[1].answer, "b");
    EXPECT_TRUE(got[1].paraphrased_answer.empty());
    EXPECT_TRUE(got[1].perturbed_answers.empty());
}

TEST_F(QaFile, ReadsArraysAndPerturbedRows) {
    const std::string text =
        R"([{"question":"q","answer":"a","paraphrased_answer":"p","perturbed_answer":["1","2","3","4","5"]}])";
    const auto got = rows(text, author_rows);
    EXPECT_EQ(got[0].paraphrased_answer, "p");
    EXPECT_EQ(got[0].perturbed_answers, (std::vector<std::string>{"1", "2", "3", "4", "5"}));
    EXPECT_TRUE(rows(text)[0].perturbed_answers.empty());  // not asked for, not read
    const auto world = rows(R"({"question":"q","answer":"a","perturbed_answer":["1","2","3"]})", world_rows);
    EXPECT_EQ(world[0].perturbed_answers.size(), 3u);
}

TEST_F(QaFile, RefusesBadRowsWithTheirPlace) {
    const std::string good = R"({"question":"q","answer":"a"})";
    EXPECT_TRUE(contains(error(good + "\n" + R"({"question":"q"})"), "qa_test.json:line 2: no field `answer`"));
    EXPECT_TRUE(contains(error(R"([{"answer":"a"}])"), "qa_test.json:[0]: no field `question`"));
    EXPECT_TRUE(contains(error(R"({"question":1,"answer":"a"})"), "`question` is of type number"));
    EXPECT_TRUE(contains(error(R"({"question":"q","answer":null})"), "`answer` is of type null"));
    EXPECT_TRUE(contains(error(R"({"question":"q","answer":""})"), "`answer` is empty"));
    EXPECT_TRUE(contains(error("[7]"), "a row is of type number, an object is needed"));
    EXPECT_TRUE(contains(error("[]"), "holds no rows"));
    EXPECT_TRUE(contains(error("\n \n"), "holds no rows"));
    EXPECT_TRUE(contains(error(good + "\n{"), "line 2: JSON fault"));
}

TEST_F(QaFile, RefusesRowsThatLackWhatIsNeeded) {
    const std::string four =
        R"({"question":"q","answer":"a","paraphrased_answer":"p","perturbed_answer":["1","2","3","4"]})";
    EXPECT_TRUE(contains(error(four, author_rows), ":line 1: the row has 4 perturbed answers, 5 are needed"));
    const std::string plain = R"({"question":"q","answer":"a"})";
    EXPECT_TRUE(contains(error(plain, author_rows), "no field `paraphrased_answer`; give a _perturbed set"));
    EXPECT_TRUE(contains(error(plain, world_rows), "no field `perturbed_answer`; give a _perturbed set"));
    EXPECT_TRUE(contains(error(R"({"question":"q","answer":"a","perturbed_answer":"b"})", world_rows),
                         "`perturbed_answer` is of type string, an array is needed"));
    EXPECT_TRUE(contains(error(R"({"question":"q","answer":"a","perturbed_answer":["1",2,"3"]})", world_rows),
                         "`perturbed_answer` is of type number, a string is needed"));
}

TEST(QaData, EverySetOfTofuIsRead) {
    const char* data = std::getenv("UIPE_DATA");
    if (!data) GTEST_SKIP() << "UIPE_DATA is not set: the published TOFU sets are not here";
    struct Set {
        const char* name;
        std::size_t rows;
        QaNeeds needs;
    };
    const Set sets[] = {{"full", 4000, answers_only},
                        {"forget01", 40, answers_only},
                        {"forget05", 200, answers_only},
                        {"forget10", 400, answers_only},
                        {"retain90", 3600, answers_only},
                        {"retain95", 3800, answers_only},
                        {"retain99", 3960, answers_only},
                        {"holdout01", 40, answers_only},
                        {"holdout10", 400, answers_only},
                        {"real_authors", 100, answers_only},
                        {"forget01_perturbed", 40, author_rows},
                        {"forget05_perturbed", 200, author_rows},
                        {"forget10_perturbed", 400, author_rows},
                        {"retain_perturbed", 400, author_rows},
                        {"real_authors_perturbed", 100, world_rows},
                        {"world_facts_perturbed", 117, world_rows}};
    for (const auto& [name, rows, needs] : sets)
        EXPECT_EQ(read_qa(fs::path(data) / "tofu" / (std::string(name) + ".json"), needs).size(), rows) << name;
}

}  // namespace
}  // namespace uipe::eval
