#include "eval/ks.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tensor/base/error.h"
#include "tensor/base/json.h"

namespace uipe::eval {
namespace {

constexpr double inf = std::numeric_limits<double>::infinity();

TEST(Ks, TailsEqualExactArithmetic) {
    const Json cases = read_json(FIXTURES "/ks.json")["tails"];
    ASSERT_GE(cases.size(), 50u);
    for (const Json& one : cases) {
        const double p = one["p"];
        EXPECT_NEAR(ks_p_value(one["n1"], one["n2"], one["h"]), p, 1e-12 * p) << one.dump();
        EXPECT_NEAR(ks_p_value(one["n2"], one["n1"], one["h"]), p, 1e-12 * p) << one.dump();
    }
}

// The values that published forget qualities take, to the six digits they are quoted with.
TEST(Ks, TailsEqualTheQuotedTable) {
    struct Row {
        int n, h;
        double p;
    };
    const Row table[] = {
        {40, 4, .990019},        {40, 5, .918805},         {40, 6, .765931},        {40, 7, .5786},
        {40, 8, .404587},        {40, 9, .265687},         {40, 10, .164973},       {40, 11, .0970748},
        {40, 12, .0541411},      {40, 13, .0286031},       {40, 14, .0143015},      {40, 15, .00676073},
        {40, 16, .00301818},     {40, 17, .00127081},      {40, 18, .000503944},    {40, 19, .000187911},
        {40, 40, 1.86034e-23},   {200, 10, .964652},       {200, 14, .712582},      {200, 20, .270474},
        {200, 25, .0878383},     {200, 27, .0521391},      {200, 28, .039562},      {200, 65, 9.59424e-10},
        {200, 78, 5.8673e-14},   {200, 200, 1.94264e-119}, {300, 33, .0529638},     {300, 34, .0423397},
        {300, 119, 1.83407e-21}, {300, 300, 1.4803e-179},  {400, 20, .700043},      {400, 25, .415789},
        {400, 38, .0540529},     {400, 39, .0445725},      {400, 136, 6.91689e-21}, {400, 149, 4.3462e-25},
        {400, 400, 1.06359e-239}};
    for (const auto& [n, h, p] : table) EXPECT_NEAR(ks_p_value(n, n, h), p, 5.1e-6 * p) << n << " " << h;
}

TEST(Ks, SamplesWithTiesInAnyOrder) {
    const Json cases = read_json(FIXTURES "/ks.json")["samples"];
    ASSERT_EQ(cases.size(), 3u);
    for (const Json& one : cases) {
        const Ks got = ks_test(one["a"], one["b"]);
        EXPECT_DOUBLE_EQ(got.D, one["D"]);
        EXPECT_NEAR(got.p, one["p"], 1e-13);
        EXPECT_EQ(ks_test(one["b"], one["a"]).p, got.p);
    }
}

TEST(Ks, EqualSamplesAreCertain) {
    const Ks got = ks_test({3, 1, 2, 2}, {2, 3, 2, 1});
    EXPECT_EQ(got.D, 0);
    EXPECT_EQ(got.p, 1);
}

TEST(Ks, InfiniteValuesRankLikeOthers) {
    EXPECT_EQ(ks_test({1, inf, 2}, {0, -inf, 5}).D, ks_test({1, 9, 2}, {0, -9, 5}).D);
}

TEST(Ks, TooSmallForADoubleIsZero) {
    EXPECT_EQ(ks_p_value(2000, 2000, 2000), 0);  // 2 / C(4000, 2000), about 1e-1203
    EXPECT_EQ(ks_p_value(2000, 1999, 2000 * 1999), 0);
    EXPECT_NEAR(ks_p_value(2000, 1000, 1), 1, 1e-9);
}

// Above 10000 values the limiting distribution takes over: where exact values exist beside it, the two agree to the
// limit's own error.
TEST(Ks, LimitMeetsExactAtTheBorder) {
    for (const int h : {50, 100, 150, 200, 250}) {
        const double exact = ks_p_value(10000, 10000, h), limit = ks_p_value(10001, 10001, h);
        EXPECT_NEAR(limit, exact, 0.001 * exact) << h;
        EXPECT_NE(limit, exact);
    }
    EXPECT_EQ(ks_p_value(10001, 10001, 0), 1);
    // Kolmogorov's distribution at 0.4, 0.9, 1.2 (sqrt(10000) h / 20000) and sqrt(12000) / 100.
    EXPECT_NEAR(ks_p_value(20000, 20000, 80), 0.9971923267772983, 1e-13);
    EXPECT_NEAR(ks_p_value(20000, 20000, 180), 0.3927307079406543, 1e-13);
    EXPECT_NEAR(ks_p_value(20000, 20000, 240), 0.11224966667072497, 1e-13);
    EXPECT_NEAR(ks_p_value(20000, 30000, 600), 0.18130044993812258, 1e-13);
}

TEST(Ks, RefusesNanAndNothing) {
    try {
        ks_test({1, 2}, {1, std::nan(""), 3});
        FAIL();
    } catch (const InputError& error) {
        EXPECT_STREQ(error.what(),
                     "Kolmogorov-Smirnov test: value 1 of the second sample is NaN; look at the losses of that row");
    }
    EXPECT_THROW(ks_test({}, {1}), InputError);
    EXPECT_THROW(ks_test({1}, {}), InputError);
}

}  // namespace
}  // namespace uipe::eval
