#include "tensor/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/tensor/reference.h"

namespace uipe::tensor::test {
namespace {

bf16 of_bits(std::uint32_t bits) {
    bf16 x;
    x.bits = static_cast<std::uint16_t>(bits);
    return x;
}

TEST(Bf16, EveryPatternSurvivesTheWayThroughF32) {
    for (std::uint32_t bits = 0; bits < 65536; ++bits) {
        const float f = of_bits(bits);
        if (std::isnan(f))
            EXPECT_TRUE(std::isnan(static_cast<float>(bf16(f)))) << bits;
        else
            EXPECT_EQ(bf16(f).bits, bits);
    }
}

TEST(Bf16, RoundsToTheNearestAndToEvenBetweenTwo) {
    // Between neighbours a and b every f32 goes to the nearer; the middle goes to the one whose last bit is 0.
    for (const std::uint32_t bits : {0x0000U, 0x0001U, 0x3f80U, 0x3f81U, 0x42ffU, 0x7f7eU, 0xbf80U, 0xbf81U}) {
        const auto a = std::bit_cast<std::uint32_t>(static_cast<float>(of_bits(bits)));
        auto rounded = [a](std::uint32_t offset) { return bf16(std::bit_cast<float>(a + offset)).bits; };
        EXPECT_EQ(rounded(0x7fff), bits);
        EXPECT_EQ(rounded(0x8000), bits + (bits & 1));
        EXPECT_EQ(rounded(0x8001), bits + 1);
    }
    Random random = fresh();
    for (int i = 0; i < 20000; ++i) {
        const auto x = static_cast<float>(random.normal());
        EXPECT_LE(std::abs(static_cast<float>(bf16(x)) - x), unit(DType::bf16) * std::abs(x));
    }
}

TEST(Bf16, OverflowIsInfinityAndNanStaysNan) {
    const float infinity = std::numeric_limits<float>::infinity();
    EXPECT_EQ(static_cast<float>(bf16(std::numeric_limits<float>::max())), infinity);
    EXPECT_EQ(static_cast<float>(bf16(-infinity)), -infinity);
    for (const std::uint32_t bits : {0x7f800001U, 0x7fffffffU, 0xff800001U, 0xffffffffU})
        EXPECT_TRUE(std::isnan(static_cast<float>(bf16(std::bit_cast<float>(bits))))) << bits;
}

TEST(DTypes, SizesNamesAndAccumulators) {
    EXPECT_EQ(size_of(DType::f64), sizeof(double));
    EXPECT_EQ(size_of(DType::f32), sizeof(float));
    EXPECT_EQ(size_of(DType::bf16), sizeof(bf16));
    EXPECT_EQ(size_of(DType::i32), sizeof(std::int32_t));
    EXPECT_STREQ(name_of(DType::f64), "f64");
    EXPECT_STREQ(name_of(DType::f32), "f32");
    EXPECT_STREQ(name_of(DType::bf16), "bf16");
    EXPECT_STREQ(name_of(DType::i32), "i32");
    EXPECT_EQ(accumulator_of(DType::f64), DType::f64);
    EXPECT_EQ(accumulator_of(DType::f32), DType::f32);
    EXPECT_EQ(accumulator_of(DType::bf16), DType::f32);
    EXPECT_EQ(dtype_of<bf16>, DType::bf16);
    EXPECT_EQ(dtype_of<std::int32_t>, DType::i32);
}

}  // namespace
}  // namespace uipe::tensor::test
