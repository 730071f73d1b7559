#include "unlearn/alpha_rule.h"

#include <gtest/gtest.h>

#include <cmath>

namespace uipe::unlearn {
namespace {

using Statistic = AlphaRule::Statistic;

TEST(AlphaRule, AGapIsPositiveWhileTheForgetRowsAreTheBetterKnown) {
    // Of 4 x 4 pairs the forget row has the smaller figure in 15; at 3.5 the distributions are 3/4 apart.
    const std::vector<double> known{1, 2, 3, 5};
    const std::vector<double> unknown{4, 6, 7, 8};
    EXPECT_DOUBLE_EQ(gap_of(Statistic::loss, known, unknown), 15.0 / 16 - 0.5);
    EXPECT_DOUBLE_EQ(gap_of(Statistic::loss, unknown, known), 1.0 / 16 - 0.5);
    EXPECT_DOUBLE_EQ(gap_of(Statistic::truth_ratio, known, unknown), 0.75);
    EXPECT_DOUBLE_EQ(gap_of(Statistic::truth_ratio, unknown, known), -0.75);
}

TEST(AlphaRule, EqualSamplesHaveNoGap) {
    const std::vector<double> x{3, 1, 2};
    for (const Statistic s : {Statistic::loss, Statistic::truth_ratio}) EXPECT_EQ(gap_of(s, x, x), 0.0);
}

TEST(AlphaRule, TakesSamplesOfUnequalSize) {
    EXPECT_DOUBLE_EQ(gap_of(Statistic::truth_ratio, {1, 2}, {2.5, 3, 4}), 1.0);
    EXPECT_DOUBLE_EQ(gap_of(Statistic::loss, {1, 2}, {2.5, 3, 4}), 0.5);
}

TEST(AlphaRule, AFigureThatIsNoneMakesTheGapNone) {
    for (const Statistic s : {Statistic::loss, Statistic::truth_ratio}) {
        EXPECT_TRUE(std::isnan(gap_of(s, {1, NAN}, {1, 2})));
        EXPECT_TRUE(std::isnan(gap_of(s, {1, 2}, {NAN})));
        EXPECT_FALSE(std::isnan(gap_of(s, {1, INFINITY}, {2})));
    }
}

TEST(AlphaRule, EveryRuleHasItsOwnName) {
    for (const AlphaRule& a : alpha_rules())
        for (const AlphaRule& b : alpha_rules()) EXPECT_EQ(a.name == b.name, &a == &b);
}

}  // namespace
}  // namespace uipe::unlearn
