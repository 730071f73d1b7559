#include "unlearn/alpha.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "tensor/base/error.h"

namespace uipe::unlearn {
namespace {

using Curve = std::function<double(double)>;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

double steady(double) { return 0.5; }

/// Searches, and checks what holds of every search.
AlphaChoice search(const Curve& gap, const Curve& utility = steady, double budget = 0.05) {
    std::set<double> asked;
    const AlphaChoice c = search_alpha(
        [&](double alpha) {
            EXPECT_TRUE(asked.insert(alpha).second) << alpha << " is measured twice";
            return AlphaMeasure{gap(alpha), utility(alpha)};
        },
        budget);
    EXPECT_LE(asked.size(), static_cast<std::size_t>(most_alphas));
    EXPECT_EQ(c.tried.size(), asked.size());
    EXPECT_EQ(c.tried.front().alpha, 0.0);
    EXPECT_DOUBLE_EQ(c.utility_floor, (1 - budget) * utility(0));
    EXPECT_FALSE(c.reason.empty());
    bool found = false;
    for (const AlphaCandidate& t : c.tried) {
        EXPECT_EQ(t.affordable, std::isfinite(t.measured.gap) && t.measured.utility >= c.utility_floor) << t.alpha;
        if (t.alpha == c.alpha) found = t.affordable;
    }
    EXPECT_TRUE(found) << "what is chosen was tried and is affordable";
    return c;
}

Curve crossing_at(double alpha) {
    return [alpha](double x) { return (alpha - x) / (alpha + x); };
}

TEST(Alpha, MeetsTheGapWhereverItCrosses) {
    for (double target = 0.2; target < 7.9; target *= 1.07) {
        const AlphaChoice c = search(crossing_at(target));
        EXPECT_GT(c.alpha, target / 1.25) << "the grid's neighbours differ by 4/3 or 3/2";
        EXPECT_LT(c.alpha, target * 1.25);
    }
}

TEST(Alpha, HitsAPointOfItsGridExactly) {
    for (const double target : {0.125, 0.1875, 0.25, 0.375, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0})
        EXPECT_EQ(search(crossing_at(target)).alpha, target);
}

TEST(Alpha, StaysAtZeroWhereNothingIsLeftToForget) {
    for (const double gap : {0.0, -0.3}) {
        const AlphaChoice c = search([&](double x) { return gap - x; });
        EXPECT_EQ(c.alpha, 0.0);
        EXPECT_EQ(c.tried.size(), 1u) << "and tries nothing more";
        EXPECT_NE(c.reason.find("no gap"), std::string::npos);
    }
}

TEST(Alpha, GoesToTheEndWhereTheGapNeverCloses) {
    const AlphaChoice c = search([](double x) { return 1 / (1 + x); });
    EXPECT_EQ(c.alpha, most_alpha);
    EXPECT_NE(c.reason.find("larger alpha"), std::string::npos);
}

TEST(Alpha, StaysBelowTheLeastWhereTheGapClosesAtOnce) {
    const AlphaChoice over = search([](double x) { return x == 0 ? 0.1 : -0.5; });
    EXPECT_EQ(over.alpha, 0.0) << "which is nearer than anything tried";
    EXPECT_EQ(search([](double x) { return 0.1 - x; }).alpha, least_alpha) << "past it, but nearer than 0";
}

TEST(Alpha, TakesTheLeastOfAFlatGap) {
    EXPECT_EQ(search([](double) { return 0.2; }).alpha, 0.0);
}

TEST(Alpha, GoesAsFarAsItCanAfford) {
    const Curve falling = [](double x) { return 0.5 - 0.01 * x; };  // the floor is reached at 2.5
    const AlphaChoice c = search(crossing_at(6), falling);
    EXPECT_EQ(c.alpha, 2.0);
    EXPECT_NE(c.reason.find("alpha 3 would cost more"), std::string::npos) << c.reason;
    EXPECT_EQ(search(crossing_at(6), falling, 0.0).alpha, 0.0);
    EXPECT_EQ(search(crossing_at(6), falling, 1.0).alpha, 6.0);
    EXPECT_EQ(search(crossing_at(1), falling).alpha, 1.0) << "and no further than it need";
}

TEST(Alpha, TheFloorItselfIsAffordable) {
    EXPECT_EQ(search(
                  crossing_at(6), [](double x) { return x <= 4 ? 1.0 - x / 8 : 0.0; }, 0.5)
                  .alpha,
              4.0);
}

TEST(Alpha, ChangesNothingWhereEveryAlphaCostsTooMuch) {
    const AlphaChoice c = search(crossing_at(2), [](double x) { return x == 0 ? 0.5 : 0.1; });
    EXPECT_EQ(c.alpha, 0.0);
    EXPECT_NE(c.reason.find("alpha 0.125 would cost more"), std::string::npos) << c.reason;
}

TEST(Alpha, TakesWhatIsNoNumberForTooFar) {
    EXPECT_EQ(search([](double x) { return x > 0.6 ? nan : 1 - x; }).alpha, 0.5);
    EXPECT_EQ(search(crossing_at(6), [](double x) { return x > 1.2 ? nan : 0.5; }).alpha, 1.0);
    EXPECT_EQ(search([](double x) { return x > 0 ? nan : 1.0; }).alpha, 0.0);
    EXPECT_EQ(search([](double x) { return x > 2 ? -INFINITY : 1 - x / 8; }).alpha, 2.0);
}

TEST(Alpha, IsNotMisledByOneNoisyStep) {
    // A gap in steps of 1/80, as a test of 80 rows has it.
    for (const double target : {0.4, 1.3, 2.6}) {
        const AlphaChoice c = search([&](double x) { return std::round(80 * (target - x) / (target + x)) / 80; });
        EXPECT_GT(c.alpha, target / 1.5);
        EXPECT_LT(c.alpha, target * 1.5);
    }
}

TEST(Alpha, NeedsABudgetAndAModelThatGivesFigures) {
    for (const double budget : {-0.1, 1.1, nan})
        EXPECT_THROW(search_alpha([](double) { return AlphaMeasure{1, 1}; }, budget), InputError);
    EXPECT_THROW(search_alpha([](double) { return AlphaMeasure{nan, 1}; }, 0.1), Error);
    EXPECT_THROW(search_alpha([](double) { return AlphaMeasure{1, nan}; }, 0.1), Error);
}

}  // namespace
}  // namespace uipe::unlearn
