#include "tensor/cpu/math.h"

#include "tests/tensor/reference.h"

namespace uipe::tensor::test {
namespace {

/// The distance between f32 numbers next to y, a normal positive number.
double ulp(double y) { return std::ldexp(1.0, std::ilogb(y) - 23); }

TEST(FastExp, IsWithinTwoUlpWhereverTheResultIsANormalNumber) {
    Random random = fresh();
    double worst = 0.0;
    for (int i = 0; i < 400000; ++i) {
        const auto x = static_cast<float>(-87.336 + random.uniform() * (88.0 + 87.336));
        const double want = std::exp(static_cast<double>(x));
        worst = std::max(worst, std::abs(cpu::fast_exp(x) - want) / ulp(want));
    }
    for (int n = -125; n < 126; ++n)  // where the reduction changes its integer
        for (const double offset : {-1e-5, 0.0, 1e-5}) {
            const auto x = static_cast<float>((n + 0.5) * std::log(2.0) + offset);
            const double want = std::exp(static_cast<double>(x));
            worst = std::max(worst, std::abs(cpu::fast_exp(x) - want) / ulp(want));
        }
    EXPECT_LE(worst, 2.0);
}

TEST(FastExp, IsExactAtTheEnds) {
    const float infinity = std::numeric_limits<float>::infinity();
    EXPECT_EQ(cpu::fast_exp(0.0F), 1.0F);
    EXPECT_EQ(cpu::fast_exp(-0.0F), 1.0F);
    for (const float x : {-87.4F, -104.0F, -1e30F, -infinity}) EXPECT_EQ(cpu::fast_exp(x), 0.0F) << x;
    EXPECT_TRUE(std::isnan(cpu::fast_exp(std::nanf(""))));
    EXPECT_TRUE(std::isnan(cpu::fast_exp(-std::nanf(""))));
}

TEST(FastExp, VectorAndScalarCodeGiveTheSameBits) {
    Random random = fresh();
    std::vector<float> x(1003);
    for (float& v : x) v = static_cast<float>(-20.0 * std::abs(random.normal()));
    std::vector<float> y(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) y[i] = cpu::fast_exp(x[i]);
    for (std::size_t i = 0; i < x.size(); ++i) {
        volatile float alone = x[i];  // not to be computed beside others
        EXPECT_EQ(y[i], cpu::fast_exp(alone)) << x[i];
    }
}

}  // namespace
}  // namespace uipe::tensor::test
