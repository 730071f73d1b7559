#include "tensor/random.h"

#include <algorithm>

#include "tests/tensor/reference.h"

namespace uipe::tensor::test {
namespace {

using Block = std::array<std::uint32_t, 4>;

TEST(Philox, GivesTheKnownAnswersOfRandom123) {
    // kat_vectors of Random123, philox4x32-10: counter words 0-1 are the index, 2-3 the stream; the key is the seed.
    EXPECT_EQ(philox(0, 0, 0), (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
    const std::uint64_t ones = ~std::uint64_t{0};
    EXPECT_EQ(philox(ones, ones, ones), (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
    EXPECT_EQ(philox(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88),
              (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RandomDraws, AreAFunctionOfSeedAndStreamAlone) {
    Random a(7, 3);
    Random b(7, 3);
    Random other_stream(7, 4);
    Random other_seed(8, 3);
    int differ = 0;
    for (int i = 0; i < 100; ++i) {
        const std::uint32_t x = a.bits();
        EXPECT_EQ(x, b.bits());
        differ += (x != other_stream.bits()) + (x != other_seed.bits());
    }
    EXPECT_GT(differ, 198);
    Random c(7, 3);
    EXPECT_EQ(c.bits(), philox(7, 3, 0)[0]);
    for (int i = 1; i < 4; ++i) c.bits();
    EXPECT_EQ(c.bits(), philox(7, 3, 1)[0]);
}

/// Tests of moments allow 6 standard errors: one run in 5e8 exceeds them.
TEST(RandomDraws, UniformFillsTheUnitIntervalEvenly) {
    Random random = fresh();
    const int n = 200000;
    std::vector<int> bins(16);
    double total = 0.0;
    for (int i = 0; i < n; ++i) {
        const double u = random.uniform();
        ASSERT_TRUE(0.0 <= u && u < 1.0);
        total += u;
        ++bins[static_cast<std::size_t>(u * 16)];
    }
    EXPECT_NEAR(total / n, 0.5, 6 * std::sqrt(1.0 / 12 / n));
    for (const int count : bins) EXPECT_NEAR(count, n / 16.0, 6 * std::sqrt(n / 16.0));
}

void expect_standard_normal(const std::vector<double>& z) {
    const auto n = static_cast<double>(z.size());
    double mean = 0.0;
    double square = 0.0;
    double fourth = 0.0;
    double inside = 0.0;
    for (const double v : z) {
        mean += v / n;
        square += v * v / n;
        fourth += v * v * v * v / n;
        inside += (std::abs(v) < 1.0) / n;
    }
    EXPECT_NEAR(mean, 0.0, 6 / std::sqrt(n));
    EXPECT_NEAR(square, 1.0, 6 * std::sqrt(2.0 / n));
    EXPECT_NEAR(fourth, 3.0, 6 * std::sqrt(96.0 / n));
    EXPECT_NEAR(inside, 0.6826895, 6 * std::sqrt(0.2166 / n));
}

TEST(RandomDraws, NormalHasTheMomentsOfTheStandardNormal) {
    Random random = fresh();
    std::vector<double> z(200000);
    for (double& v : z) v = random.normal();
    expect_standard_normal(z);
}

TEST(RandomDraws, BelowIsEvenAndInRange) {
    Random random = fresh();
    for (const std::uint64_t n : {std::uint64_t{1}, std::uint64_t{3}, std::uint64_t{7}}) {
        std::vector<int> count(n);
        for (int i = 0; i < 30000; ++i) {
            const std::uint64_t x = random.below(n);
            ASSERT_LT(x, n);
            ++count[x];
        }
        for (const int c : count) EXPECT_NEAR(c, 30000.0 / static_cast<double>(n), 6 * std::sqrt(30000.0));
    }
    const std::uint64_t huge = (std::uint64_t{1} << 63) + 12345;
    for (int i = 0; i < 1000; ++i) ASSERT_LT(random.below(huge), huge);
}

TEST(RandomDraws, APermutationHoldsEachIndexOnceAndEachOrderIsAsLikely) {
    Random random = fresh();
    for (const std::int64_t n : {0, 1, 2, 33}) {
        auto p = random.permutation(n);
        std::sort(p.begin(), p.end());
        for (std::int64_t i = 0; i < n; ++i) EXPECT_EQ(p[static_cast<std::size_t>(i)], i);
    }
    std::vector<int> orders(27);
    for (int i = 0; i < 6000; ++i) {
        const auto p = random.permutation(3);
        ++orders[static_cast<std::size_t>(9 * p[0] + 3 * p[1] + p[2])];
    }
    int met = 0;
    for (const int count : orders)
        if (count > 0) {
            EXPECT_NEAR(count, 1000, 6 * std::sqrt(1000.0));
            ++met;
        }
    EXPECT_EQ(met, 6);
}

class FillNormal : public EachType {};
UIPE_EACH_FLOAT_TYPE(FillNormal);

TEST_P(FillNormal, HasTheMomentsAskedForAndWritesEveryElement) {
    const Tensor y = poisoned({100003}, GetParam());
    fill_normal(y, 0.02, seed(), 77);
    std::vector<double> z = values(y);
    for (double& v : z) v /= 0.02;
    expect_standard_normal(z);
}

TEST_P(FillNormal, AnElementDoesNotDependOnTheSizeTheShapeOrTheThreads) {
    const Tensor large = poisoned({50003}, GetParam());
    fill_normal(large, 1.0, 5, 6);
    for (const std::int64_t n : {1, 2, 3, 4, 5, 17, 1001}) {
        const Tensor y = poisoned({n}, GetParam());
        fill_normal(y, 1.0, 5, 6);
        EXPECT_TRUE(same_bits(y, large.rows(0, n))) << n;
    }
    expect_same_bits_for_any_threads([&] {
        const Tensor y = poisoned({50003}, GetParam());
        fill_normal(y, 1.0, 5, 6);
        return std::vector<Tensor>{y};
    });
    const Tensor other = poisoned({50003}, GetParam());
    fill_normal(other, 1.0, 5, 7);
    EXPECT_FALSE(same_bits(other, large));
}

class FillUniform : public EachType {};
UIPE_EACH_FLOAT_TYPE(FillUniform);

TEST_P(FillUniform, HasTheMomentsAndTheBoundsAskedFor) {
    const Tensor y = poisoned({100003}, GetParam());
    fill_uniform(y, 0.5, seed(), 8);
    double sum = 0;
    double squares = 0;
    for (const double v : values(y)) {
        ASSERT_LE(std::abs(v), 0.5);  // false for NaN
        sum += v;
        squares += v * v;
    }
    // A mean of n numbers of variance 1/12, and of their squares, of variance 1/180: six standard deviations.
    EXPECT_NEAR(sum / 100003, 0.0, 6 * std::sqrt(1.0 / 12 / 100003));
    EXPECT_NEAR(squares / 100003, 1.0 / 12, 6 * std::sqrt(1.0 / 180 / 100003));
}

TEST_P(FillUniform, AnElementDoesNotDependOnTheSizeOrTheThreads) {
    const Tensor large = poisoned({50003}, GetParam());
    fill_uniform(large, 2.0, 5, 6);
    for (const std::int64_t n : {1, 3, 4, 1001}) {
        const Tensor y = poisoned({n}, GetParam());
        fill_uniform(y, 2.0, 5, 6);
        EXPECT_TRUE(same_bits(y, large.rows(0, n))) << n;
    }
    expect_same_bits_for_any_threads([&] {
        const Tensor y = poisoned({50003}, GetParam());
        fill_uniform(y, 2.0, 5, 6);
        return std::vector<Tensor>{y};
    });
    EXPECT_FALSE(same_bits(large.rows(0, 10), large.rows(10, 20)));
}

TEST(FillNormalTypes, DrawTheSameNumbersRounded) {
    const Tensor wide = poisoned({999}, DType::f64);
    fill_normal(wide, 1.0, 1, 2);
    for (const DType dtype : {DType::f32, DType::bf16}) {
        const Tensor y = poisoned({999}, dtype);
        fill_normal(y, 1.0, 1, 2);
        EXPECT_TRUE(same_bits(y, wide.to(dtype)));
    }
}

}  // namespace
}  // namespace uipe::tensor::test
