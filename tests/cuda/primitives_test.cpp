// The primitives of device.h against the PTX ISA's text, element by element. The same file runs on the emulator and on
// a GPU: what the emulator computes is what a GPU does.
#include "tests/cuda/cuda_test.h"

#include "tests/cuda/primitives.h"

namespace uipe::tensor::test {
namespace {

using CudaPrimitives = Cuda;

/// Zeros with a one at `at`.
std::vector<float> one_hot(std::size_t n, std::size_t at) {
    std::vector<float> x(n, 0.0F);
    x[at] = 1.0F;
    return x;
}

TEST_F(CudaPrimitives, MmaMultipliesEachPairOfElements) {
    // a is a unit at (i, k): row i of d is then row k of b, numbered so that every element is another.
    std::vector<float> b(128);
    std::iota(b.begin(), b.end(), 1.0F);
    const std::vector<float> zero(128, 0.0F);
    for (std::size_t i = 0; i < 16; ++i)
        for (std::size_t k = 0; k < 16; ++k) {
            const std::vector<float> d = mma_product(one_hot(256, i * 16 + k), b, zero);
            for (std::size_t at = 0; at < 128; ++at)
                ASSERT_EQ(d[at], at / 8 == i ? b[k * 8 + at % 8] : 0.0F) << "a(" << i << "," << k << ") d " << at;
        }
    // b is a unit at (k, j): column j of d is column k of a.
    std::vector<float> a(256);
    std::iota(a.begin(), a.end(), 1.0F);
    for (std::size_t k = 0; k < 16; ++k)
        for (std::size_t j = 0; j < 8; ++j) {
            const std::vector<float> d = mma_product(a, one_hot(128, k * 8 + j), zero);
            for (std::size_t at = 0; at < 128; ++at)
                ASSERT_EQ(d[at], at % 8 == j ? a[at / 8 * 16 + k] : 0.0F) << "b(" << k << "," << j << ") d " << at;
        }
}

TEST_F(CudaPrimitives, MmaAddsToWhatIsThere) {
    std::vector<float> c(128);
    std::iota(c.begin(), c.end(), 0.5F);
    EXPECT_EQ(mma_product(std::vector<float>(256, 0.0F), std::vector<float>(128, 1.0F), c), c);
    std::vector<float> sums = c;
    for (float& x : sums) x += 16.0F;
    EXPECT_EQ(mma_product(std::vector<float>(256, 1.0F), std::vector<float>(128, 1.0F), c), sums);
}

TEST_F(CudaPrimitives, LoadMatrixGivesEachLaneItsPair) {
    const std::vector<std::uint32_t> r = loaded_matrices(false);
    const std::vector<std::uint32_t> t = loaded_matrices(true);
    for (std::uint32_t l = 0; l < 32; ++l)
        for (std::uint32_t m = 0; m < 4; ++m) {
            const std::uint32_t row = l / 4;
            const std::uint32_t column = l % 4 * 2;
            const std::uint32_t plain = m * 64 + row * 8 + column;
            EXPECT_EQ(r[l * 4 + m], plain | (plain + 1) << 16) << "lane " << l << " matrix " << m;
            const std::uint32_t across = m * 64 + column * 8 + row;
            EXPECT_EQ(t[l * 4 + m], across | (across + 8) << 16) << "lane " << l << " matrix " << m << " transposed";
        }
}

TEST_F(CudaPrimitives, AsynchronousCopiesArriveAndFillWithZeros) {
    std::vector<std::uint32_t> x(256);
    std::iota(x.begin(), x.end(), 1000U);
    const std::vector<std::uint32_t> out = copied(x);
    for (std::size_t i = 0; i < 128; ++i) {
        EXPECT_EQ(out[i], x[127 - i]);
        EXPECT_EQ(out[128 + i], i / 4 % 2 == 0 ? x[128 + i] : 0U);
    }
}

TEST_F(CudaPrimitives, WarpsExchangeValues) {
    const auto results = warp_results();
    for (std::size_t l = 0; l < 32; ++l) {
        EXPECT_EQ(results[0][l], static_cast<float>((l ^ 5U) * (l ^ 5U)));
        EXPECT_EQ(results[1][l], static_cast<float>(3 * l % 32 * (3 * l % 32)));
        EXPECT_EQ(results[2][l], static_cast<float>(l % 2 == 1 ? 0x55555555U : 0xaaaaaaaaU));
        EXPECT_EQ(results[3][l], 10416.0F);  // 31 * 32 * 63 / 6
        EXPECT_EQ(results[4][l], 961.0F);
    }
}

TEST_F(CudaPrimitives, BlocksSumAndFindTheLargest) {
    for (const int n : {32, 64, 256, 1024}) {
        const std::vector<float> out = block_results(n);
        for (int t = 0; t < n; ++t) {
            ASSERT_EQ(out[static_cast<std::size_t>(t)], static_cast<float>(n * (n - 1) / 2));
            ASSERT_EQ(out[static_cast<std::size_t>(n + t)], static_cast<float>(n - 1));
        }
    }
}

TEST_F(CudaPrimitives, MathIsWithinAFewUlp) {
    std::vector<float> x;
    Random random = fresh();
    for (int i = 0; i < 1000; ++i) x.push_back(static_cast<float>(20.0 * random.uniform()));
    x.push_back(0.0F);
    const std::vector<float> out = math_results(x);
    const auto expect = [&](std::size_t which, std::size_t i, double want) {
        const double got = static_cast<double>(out[which * x.size() + i]);
        EXPECT_TRUE(got == want || std::abs(got - want) <= 0x1p-21 * std::abs(want) + 0x1p-126)
            << "function " << which << " of " << x[i] << ": got " << got << ", want " << want;
    };
    for (std::size_t i = 0; i < x.size(); ++i) {
        const auto v = static_cast<double>(x[i]);
        expect(0, i, std::exp2(v));
        expect(1, i, std::exp(v));
        expect(2, i, std::log(v));
        expect(3, i, std::log1p(v));
        expect(4, i, std::sqrt(v));
    }
}

TEST_F(CudaPrimitives, RoundingToBf16HasTheBitsOfTheHost) {
    std::vector<float> x{0.0F,
                         -0.0F,
                         1.0F,
                         0x1.01p0F,
                         0x1.03p0F,
                         0x1p-140F,
                         3.4e38F,
                         std::numeric_limits<float>::infinity(),
                         std::numeric_limits<float>::quiet_NaN()};
    Random random = fresh();
    for (int i = 0; i < 1000; ++i) x.push_back(static_cast<float>(random.normal()));
    const std::vector<bf16> got = rounded(x);
    for (std::size_t i = 0; i < x.size(); ++i) EXPECT_EQ(got[i].bits, bf16(x[i]).bits) << x[i];
}

}  // namespace
}  // namespace uipe::tensor::test
