#include "unlearn/dataset.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "llama/tokenizer_trainer.h"
#include "tests/llama/support.h"
#include "unlearn/refusals.h"

namespace uipe::unlearn {
namespace {

using llama::TemporaryFolder;
using Order = std::vector<std::int64_t>;

Order numbers(std::int64_t n) {
    Order out(static_cast<std::size_t>(n));
    std::iota(out.begin(), out.end(), 0);
    return out;
}

Order sorted(Order order) {
    std::sort(order.begin(), order.end());
    return order;
}

TEST(EpochOrder, IsAPermutationAndAnotherEachEpochAndSeed) {
    std::set<Order> seen;
    for (std::uint64_t seed = 1; seed <= 3; ++seed)
        for (std::int64_t epoch = 0; epoch < 5; ++epoch) {
            const Order order = epoch_order(50, 0, 0, true, seed, epoch);
            EXPECT_EQ(sorted(order), numbers(50));
            EXPECT_EQ(epoch_order(50, 0, 0, true, seed, epoch), order) << "the same again";
            seen.insert(order);
        }
    EXPECT_EQ(seen.size(), 15u);
    EXPECT_FALSE(seen.contains(numbers(50)));
}

TEST(EpochOrder, WithoutShufflingIsTheFilesOrder) {
    EXPECT_EQ(epoch_order(7, 0, 0, false, 1, 3), numbers(7));
    const Order replaying = epoch_order(7, 20, 5, false, 1, 3);
    EXPECT_EQ(Order(replaying.begin(), replaying.begin() + 7), numbers(7));
    EXPECT_EQ(replaying.size(), 12u);
}

TEST(EpochOrder, ReplaysWithoutRepetitionAndOthersEachEpoch) {
    std::set<Order> draws;
    for (std::int64_t epoch = 0; epoch < 4; ++epoch) {
        const Order order = sorted(epoch_order(10, 100, 15, true, 1, epoch));
        ASSERT_EQ(order.size(), 25u);
        EXPECT_EQ(Order(order.begin(), order.begin() + 10), numbers(10));
        const Order replayed(order.begin() + 10, order.end());
        EXPECT_EQ(std::set(replayed.begin(), replayed.end()).size(), 15u);
        EXPECT_GE(replayed.front(), 10);
        EXPECT_LT(replayed.back(), 110);
        draws.insert(replayed);
    }
    EXPECT_EQ(draws.size(), 4u);
    EXPECT_EQ(sorted(epoch_order(10, 4, 9, true, 1, 0)), numbers(14)) << "no more than there are";
    EXPECT_EQ(sorted(epoch_order(10, 0, 9, true, 1, 0)), numbers(10));
}

TEST(PairedRow, IsUniformAndDrawnAnewEachEpoch) {
    std::vector<int> counts(8);
    int same = 0;
    for (std::int64_t row = 0; row < 800; ++row) {
        const std::int64_t first = paired_row(8, 1, 0, row);
        ASSERT_GE(first, 0);
        ASSERT_LT(first, 8);
        EXPECT_EQ(paired_row(8, 1, 0, row), first);
        ++counts[static_cast<std::size_t>(first)];
        same += first == paired_row(8, 1, 1, row) ? 1 : 0;
    }
    // Binomial(800, 1/8): 100 with a deviation of 9.4; five of them.
    for (const int count : counts) EXPECT_NEAR(count, 100, 47);
    EXPECT_NEAR(same, 100, 47);
    EXPECT_EQ(paired_row(1, 1, 3, 5), 0);
}

class ReadSequences : public ::testing::Test {
protected:
    ReadSequences() {
        const std::vector<std::string> lines{"Who wrote it? [INST] the answer is blue [/INST]", "a line of plain text"};
        llama::train_tokenizer(lines, 300, folder_ / "tokenizer.model");
        tokenizer_ = llama::Tokenizer::load(folder_ / "tokenizer.model");
    }
    std::vector<llama::Sequence> read(const std::string& name, const std::string& bytes) {
        write_file(folder_ / name, bytes);
        return read_sequences(folder_ / name, *tokenizer_, llama::prompt_template("llama2-chat"), 64);
    }
    std::string refusal(const std::string& bytes) {
        const std::string message = llama::message_of([&] { read("bad.json", bytes); });
        EXPECT_SAYS(message, (folder_ / "bad.json").string());
        return message;
    }

    TemporaryFolder folder_;
    std::optional<llama::Tokenizer> tokenizer_;
};

TEST_F(ReadSequences, RowsOfBothKindsInBothLayouts) {
    const std::string qa = R"({"question": "Who wrote it?", "answer": "blue"})";
    const std::string text = R"({"text": "a line of plain text"})";
    const auto lines = read("rows.json", qa + "\n\n" + text + "\n");
    const auto array = read("rows2.json", " [" + qa + "," + text + "]");
    ASSERT_EQ(lines.size(), 2u);
    ASSERT_EQ(array.size(), 2u);
    for (std::size_t i = 0; i < 2; ++i) {
        EXPECT_EQ(lines[i].ids, array[i].ids);
        EXPECT_EQ(lines[i].first_target, array[i].first_target);
        EXPECT_EQ(lines[i].ids.front(), tokenizer_->bos_id());
        EXPECT_EQ(lines[i].ids.back(), tokenizer_->eos_id());
    }
    EXPECT_GT(lines[0].first_target, 1) << "a question is not learned";
    EXPECT_EQ(lines[1].first_target, 1) << "a text is";
    const auto plain = read("rows.txt", "a line of plain text\n  \nWho wrote it?\r\n");
    ASSERT_EQ(plain.size(), 2u);
    EXPECT_EQ(plain[0].ids, lines[1].ids);
}

TEST(PairedRow, RefusalsAreDrawnApartFromRetainRows) {
    int same_row = 0;
    int same_epoch = 0;
    for (std::int64_t row = 0; row < 800; ++row) {
        const std::int64_t refusal = paired_refusal(8, 1, 0, row);
        ASSERT_TRUE(0 <= refusal && refusal < 8);
        EXPECT_EQ(paired_refusal(8, 1, 0, row), refusal);
        same_row += refusal == paired_row(8, 1, 0, row) ? 1 : 0;
        same_epoch += refusal == paired_refusal(8, 1, 1, row) ? 1 : 0;
    }
    // An eighth of 800 by chance, give or take four standard deviations.
    EXPECT_NEAR(same_row, 100, 38);
    EXPECT_NEAR(same_epoch, 100, 38);
}

TEST(Refusals, TheBuiltInOnesAreAHundredDifferentSentences) {
    const std::vector<std::string>& all = built_in_refusals();
    EXPECT_EQ(all.size(), 100U);
    EXPECT_EQ(std::set<std::string>(all.begin(), all.end()).size(), 100U);
    for (const std::string& line : all) {
        EXPECT_TRUE(line.size() > 10 && line.size() < 80 && line.back() == '.') << line;
        EXPECT_EQ(line.find("  "), std::string::npos) << line;
    }
}

TEST_F(ReadSequences, FaultsAreNamedWithTheirPlace) {
    const std::string good = R"({"question": "q", "answer": "a"})";
    EXPECT_SAYS(refusal(good + "\n" + R"({"question": "q"})"), ":line 2: has no \"answer\"");
    EXPECT_SAYS(refusal("[" + good + R"(, {"answer": "a"}])"), ":[1]: has no \"question\"");
    EXPECT_SAYS(refusal(good + "\n{\"question\": \"q\", \"answer\" \"a\"}"), ":line 2: JSON fault at byte 30");
    EXPECT_SAYS(refusal(good + "\n17"), ":line 2: is no object");
    EXPECT_SAYS(refusal(R"({"question": "q", "answer": 7})"), "must be a text");
    EXPECT_SAYS(refusal(R"({"question": "q", "answer": ""})"), "not empty");
    EXPECT_SAYS(refusal(R"({"text": ["a"]})"), "must be a text");
    EXPECT_SAYS(refusal(""), "holds no rows");
    EXPECT_SAYS(refusal("[]"), "holds no rows");
}

}  // namespace
}  // namespace uipe::unlearn
