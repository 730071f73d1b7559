#include "eval/rouge.h"

#include <gtest/gtest.h>

#include <string>

namespace uipe::eval {
namespace {

struct Case {
    const char *reference, *candidate;
    double rouge1_recall, rougeL_recall, rougeL_f1;
};

// Expected values are those of the rouge_score package, stemmer on.
const Case cases[] = {
    {"The cat sat on the mat", "the cats sat mat on", 5.0 / 6, 4.0 / 6, 0.7272727272727272},
    {"the the the dog", "the dog the", 0.75, 0.5, 0.5714285714285715},
    {"a b c", "c b a", 1, 1.0 / 3, 1.0 / 3},
    {"a b", "b x a", 1, 0.5, 0.4},
    {"the running dogs", "a dog RUNS!", 2.0 / 3, 1.0 / 3, 1.0 / 3},  // runs is stemmed, dogs and dog meet
    {"don't stop", "don t stop", 1, 1, 1},
    {"one two", "three", 0, 0, 0},
};

TEST(Rouge, AgreesWithRougeScore) {
    for (const auto& [reference, candidate, one, longest, f1] : cases) {
        const Rouge got = rouge(reference, candidate);
        EXPECT_DOUBLE_EQ(got.rouge1_recall, one) << reference;
        EXPECT_DOUBLE_EQ(got.rougeL_recall, longest) << reference;
        EXPECT_DOUBLE_EQ(got.rougeL_f1, f1) << reference;
    }
}

TEST(Rouge, LettersBeyondAsciiSeparateWords) {
    EXPECT_EQ(rouge("Jaime Vásquez", "jaime v squez").rougeL_recall, 1);
    EXPECT_EQ(rouge("\xff\xfe abc \xc3", "abc").rougeL_f1, 1);  // bytes that are no UTF-8 separate too
}

TEST(Rouge, DottedIAndKelvinSignAreLowerCasedToAscii) {
    EXPECT_EQ(rouge("İstanbul", "i stanbul").rougeL_recall, 1);
    EXPECT_EQ(rouge("İstanbul", "istanbul").rougeL_recall, 0);
    EXPECT_EQ(rouge("aİb", "ai b").rougeL_recall, 1);
    EXPECT_EQ(rouge("300\u212A", "300k").rougeL_recall, 1);
    EXPECT_EQ(rouge("İ", "i").rougeL_recall, 1);
}

TEST(Rouge, NoWordsScoreZero) {
    for (const auto& [a, b] : {std::pair{"", "x"}, {"x", ""}, {"…", "x"}, {"", ""}}) {
        const Rouge got = rouge(a, b);
        EXPECT_EQ(got.rouge1_recall + got.rougeL_recall + got.rougeL_f1, 0);
    }
}

}  // namespace
}  // namespace uipe::eval
