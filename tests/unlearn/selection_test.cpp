#include "unlearn/selection.h"

#include <gtest/gtest.h>

#include "tensor/base/error.h"

namespace uipe::unlearn {
namespace {

using Candidates = std::vector<Candidate>;

TEST(Selection, TakesTheBestForgettingAmongTheUseful) {
    const Selection s = select({{"1", 0.01, 0.60}, {"2", 0.40, 0.55}, {"3", 0.90, 0.30}}, 0.5);
    EXPECT_EQ(s.index, 1u);
    EXPECT_NE(s.reason.find("forget quality"), std::string::npos);
    EXPECT_NE(s.reason.find("0.5"), std::string::npos);
}

TEST(Selection, TheFloorItselfIsUseful) { EXPECT_EQ(select({{"1", 0.1, 0.9}, {"2", 0.2, 0.5}}, 0.5).index, 1u); }

TEST(Selection, WithNoneUsefulTakesTheBestUtility) {
    const Selection s = select({{"1", 0.9, 0.1}, {"2", 0.1, 0.3}, {"3", 0.95, 0.2}}, 0.5);
    EXPECT_EQ(s.index, 1u);
    EXPECT_NE(s.reason.find("no candidate"), std::string::npos);
}

TEST(Selection, TheEarlierWinsTies) {
    EXPECT_EQ(select({{"1", 0.1, 0.9}, {"2", 0.4, 0.6}, {"3", 0.4, 0.9}}, 0.5).index, 1u);
    EXPECT_EQ(select({{"1", 0.1, 0.2}, {"2", 0.4, 0.2}}, 0.5).index, 0u);
}

TEST(Selection, OneCandidateIsTaken) {
    EXPECT_EQ(select({{"1", 0.0, 0.0}}, 0.9).index, 0u);
    EXPECT_EQ(select({{"1", 0.0, 0.0}}, 0.0).index, 0u);
}

TEST(Selection, NothingToSelectFromIsAnError) { EXPECT_THROW(select(Candidates{}, 0.5), Error); }

}  // namespace
}  // namespace uipe::unlearn
