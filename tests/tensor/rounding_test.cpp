#include "tensor/rounding.h"

#include "tests/tensor/reference.h"

namespace uipe::tensor::test {
namespace {

constexpr std::size_t draws = 1'000'000;

/// How far the mean of so many independent numbers may be from theirs: six standard deviations, once in 5e8 runs.
double bound(double deviation, std::size_t count) { return 6.0 * deviation / std::sqrt(static_cast<double>(count)); }

/// The bits of `draws` elements of one step.
std::vector<std::uint32_t> drawn(const RoundingKey& key, std::uint32_t first = 0) {
    std::vector<std::uint32_t> out(draws);
    for (std::size_t i = 0; i < draws; ++i) out[i] = rounding_bits(first + static_cast<std::uint32_t>(i), key);
    return out;
}

/// A sixteen-bit number as one in (-1/2, 1/2): uniform, its mean is 0 and its variance 1/12.
double centred(std::uint32_t bits) { return ((bits & 0xffffU) + 0.5) * 0x1p-16 - 0.5; }

double last_bit(float x) { return std::ldexp(1.0, std::ilogb(x) - 7); }

TEST(Rounding, IsUnbiasedOverTheElementsOfAStep) {
    Random random = fresh();
    const RoundingKey key(seed(), 1, 7);
    double low = 0.0;
    double high = 0.0;
    for (std::size_t i = 0; i < draws; ++i) {
        const auto x = static_cast<float>(random.normal());
        const std::uint32_t bits = rounding_bits(static_cast<std::uint32_t>(i), key);
        low += (double{rounded_by(x, bits)} - double{x}) / last_bit(x);
        high += (double{rounded_by(x, bits >> 16)} - double{x}) / last_bit(x);
    }
    // Up with probability p or down: of variance p (1 - p) <= 1/4 in units of the last bit.
    EXPECT_LE(std::abs(low) / draws, bound(0.5, draws));
    EXPECT_LE(std::abs(high) / draws, bound(0.5, draws));
}

TEST(Rounding, IsUnbiasedOverTheStepsOfAnElement) {
    for (const float x : {1.0F + 0x1p-12F, 1.0F + 0x1p-8F, -3.1415926F, 0x1.fffp-130F})
        for (const std::uint32_t index : {0U, 1U, 123456789U}) {
            constexpr std::size_t steps = 100'000;
            const double ulp = std::max(last_bit(x), 0x1p-133);  // below 2^-126 all numbers are so far apart
            double off = 0.0;
            for (std::size_t step = 0; step < steps; ++step) {
                const std::uint32_t bits =
                    rounding_bits(index, RoundingKey(seed(), 1, static_cast<std::int64_t>(step)));
                off += (double{rounded_by(x, bits)} - double{x}) / ulp;
            }
            EXPECT_LE(std::abs(off) / steps, bound(0.5, steps)) << x << " at " << index;
        }
}

TEST(Rounding, GoesToANeighbourAndLeavesWhatIsOne) {
    Random random = fresh();
    for (int i = 0; i < 10'000; ++i) {
        const auto x = static_cast<float>(std::exp(15.0 * random.normal()) * random.normal());
        const float y = rounded_by(x, random.bits());
        EXPECT_EQ(float{bf16(y)}, y);
        EXPECT_LT(std::abs(double{y} - double{x}), std::max(last_bit(x), 0x1p-133));
        EXPECT_EQ(rounded_by(y, random.bits()), y);
    }
    constexpr float infinity = std::numeric_limits<float>::infinity();
    for (const std::uint32_t bits : {0U, 0xffffU, 0xffffffffU}) {
        EXPECT_EQ(rounded_by(infinity, bits), infinity);
        EXPECT_EQ(rounded_by(-infinity, bits), -infinity);
        EXPECT_EQ(rounded_by(0.0F, bits), 0.0F);
        for (const std::uint32_t nan : {0x7fffffffU, 0xffffffffU, 0x7f800001U, 0x7fc00000U})
            EXPECT_TRUE(std::isnan(float{bf16(rounded_by(std::bit_cast<float>(nan), bits))})) << nan;
    }
}

TEST(Rounding, BitsAreFair) {
    const std::vector<std::uint32_t> bits = drawn(RoundingKey(seed(), 2, 1));
    for (int b = 0; b < 32; ++b) {
        double ones = 0.0;
        for (const std::uint32_t x : bits) ones += (x >> b) & 1U;
        EXPECT_LE(std::abs(ones / draws - 0.5), bound(0.5, draws)) << "bit " << b;
    }
}

TEST(Rounding, IsIndependentOfTheNeighbourTheOtherMomentAndAnotherKey) {
    const std::vector<std::uint32_t> bits = drawn(RoundingKey(seed(), 2, 1));
    const auto expect_uncorrelated = [](const std::vector<std::uint32_t>& a, const std::vector<std::uint32_t>& b,
                                        const char* what) {
        double sum = 0.0;
        for (std::size_t i = 0; i < a.size(); ++i) sum += centred(a[i]) * centred(b[i]);
        EXPECT_LE(std::abs(sum) / draws, bound(1.0 / 12.0, draws)) << what;  // a product of two of variance 1/12
    };
    std::vector<std::uint32_t> upper = bits;
    for (std::uint32_t& x : upper) x >>= 16;
    expect_uncorrelated(bits, upper, "the other moment");
    for (const std::uint32_t away : {1U, 2U, 64U, 4096U})
        expect_uncorrelated(bits, drawn(RoundingKey(seed(), 2, 1), away), "a neighbour");
    expect_uncorrelated(bits, drawn(RoundingKey(seed(), 2, 2)), "the next step");
    expect_uncorrelated(bits, drawn(RoundingKey(seed(), 3, 1)), "another parameter");
    expect_uncorrelated(bits, drawn(RoundingKey(seed() + 1, 2, 1)), "another seed");
}

}  // namespace
}  // namespace uipe::tensor::test
