#include "unlearn/experiment/statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tensor/base/error.h"

namespace uipe::unlearn {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

TEST(Statistics, AnIntervalIsStudents) {
    const Estimate e = estimate({1, 2, 3, 4, 5});  // s = sqrt(2.5), t of 4 degrees 2.776
    EXPECT_DOUBLE_EQ(e.mean, 3.0);
    EXPECT_NEAR(e.half, 2.776 * std::sqrt(2.5 / 5), 1e-12);
    EXPECT_EQ(e.n, 5u);
}

TEST(Statistics, WhatIsNotFiniteIsLeftOut) {
    const Estimate e = estimate({1, std::nan(""), 3, infinity});
    EXPECT_DOUBLE_EQ(e.mean, 2.0);
    EXPECT_EQ(e.n, 2u);
    EXPECT_EQ(estimate({}).n, 0u);
    EXPECT_TRUE(std::isnan(estimate({std::nan("")}).mean));
}

TEST(Statistics, OneValueHasNoBounds) {
    const Estimate e = estimate({7});
    EXPECT_DOUBLE_EQ(e.mean, 7.0);
    EXPECT_EQ(e.half, infinity);
    EXPECT_EQ(verdict(e), Verdict::not_resolved);
}

// Printed tables: 31 degrees 2.0395, 40 2.0211, 60 2.0003, 120 1.9799.
TEST(Statistics, QuantilesBeyondTheTable) {
    EXPECT_NEAR(student_95(30), 2.042, 1e-12);
    EXPECT_NEAR(student_95(31), 2.0395, 1e-4);
    EXPECT_NEAR(student_95(40), 2.0211, 1e-4);
    EXPECT_NEAR(student_95(60), 2.0003, 1e-4);
    EXPECT_NEAR(student_95(120), 1.9799, 1e-4);
    EXPECT_THROW(student_95(0), Error);
}

TEST(Statistics, Verdicts) {
    EXPECT_EQ(verdict(estimate({1.0, 1.1, 0.9})), Verdict::holds);
    EXPECT_EQ(verdict(estimate({-1.0, -1.1, -0.9})), Verdict::does_not_hold);
    EXPECT_EQ(verdict(estimate({-1.0, 1.0, 0.1})), Verdict::not_resolved);
    EXPECT_EQ(verdict(estimate({})), Verdict::not_resolved);
    EXPECT_EQ(text_of(Verdict::does_not_hold), "does not hold");
}

}  // namespace
}  // namespace uipe::unlearn
