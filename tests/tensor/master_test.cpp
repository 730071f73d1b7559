#include "tensor/master.h"

#include "tests/tensor/reference.h"

namespace uipe::tensor::test {
namespace {

/// What a weight and a rest make of a master.
float kept(float master) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(master);
    const std::uint32_t weight = std::uint32_t{bf16(master).bits} << 16;
    bf16 rest;
    rest.bits = static_cast<std::uint16_t>(rest_bits(bits, weight));
    return masters_of(Tensor::from(std::vector<bf16>{master}, {1}), Tensor::from(std::vector<bf16>{rest}, {1}))
        .to_vector<float>()[0];
}

TEST(Master, IsKeptToTheLastBitByItsWeightAndItsRest) {
    const auto expect_kept = [](std::uint32_t bits) {
        const bool half_way = (bits & 0xffffU) == 0x8000U && (bits >> 16) % 2 == 0;  // rounded to even: towards zero
        EXPECT_EQ(std::bit_cast<std::uint32_t>(kept(std::bit_cast<float>(bits))), half_way ? bits - 1 : bits)
            << std::hex << bits;
    };
    // Every lower half beside uppers that are: ±0 and denormal, odd and even, the last of an exponent, the largest.
    for (const std::uint32_t upper : {0x0000U, 0x8000U, 0x0001U, 0x3f80U, 0x3f81U, 0xbfffU, 0x7f7fU})
        for (std::uint32_t lower = 0; lower < 0x10000U; lower += upper == 0x3f80U ? 1 : 0x111U)
            expect_kept(upper << 16 | lower);
    for (const std::uint32_t bits : {0x7f800000U, 0xff800000U, 0x3f7f8000U, 0x3f808000U, 0x3f818000U})
        expect_kept(bits);
    Random random = fresh();
    for (int i = 0; i < 1000; ++i) {
        const float x = static_cast<float>(random.normal());
        expect_kept(std::bit_cast<std::uint32_t>(x));
    }
    EXPECT_TRUE(std::isnan(kept(std::numeric_limits<float>::quiet_NaN())));
}

TEST(Master, StillRoundsToItsWeight) {
    for (const std::uint32_t upper : {0x0000U, 0x3f80U, 0x3f81U, 0xc2fdU, 0x7f7eU})
        for (std::uint32_t lower = 0x7ff0U; lower <= 0x8010U; ++lower) {
            const float master = std::bit_cast<float>(upper << 16 | lower);
            EXPECT_EQ(bf16(kept(master)).bits, bf16(master).bits) << std::hex << upper << ' ' << lower;
        }
}

TEST(Master, OfF32IsTheWeightItself) {
    const Tensor w = normal({3}, DType::f32);
    EXPECT_EQ(masters_of(w, {}).raw(), w.raw());
}

}  // namespace
}  // namespace uipe::tensor::test
