#include "tests/tensor/reference.h"

namespace uipe::tensor::test {
namespace {

struct Shape3 {
    std::int64_t m, n, k;
};

/// op(a) op(b) from its definition.
std::vector<Want> product(const Tensor& a_tensor, bool transpose_a, const Tensor& b_tensor, bool transpose_b,
                          const Shape3& s) {
    const auto a = values(a_tensor);
    const auto b = values(b_tensor);
    std::vector<Want> y(static_cast<std::size_t>(s.m * s.n));
    for (std::int64_t i = 0; i < s.m; ++i)
        for (std::int64_t j = 0; j < s.n; ++j)
            for (std::int64_t l = 0; l < s.k; ++l)
                y[static_cast<std::size_t>(i * s.n + j)].add(
                    a[static_cast<std::size_t>(transpose_a ? l * s.m + i : i * s.k + l)] *
                    b[static_cast<std::size_t>(transpose_b ? j * s.k + l : l * s.n + j)]);
    return y;
}

Tensor operand(std::int64_t rows, std::int64_t columns, bool transposed, DType dtype) {
    return transposed ? normal({columns, rows}, dtype) : normal({rows, columns}, dtype);
}

class Matmul : public EachType {};
UIPE_EACH_FLOAT_TYPE(Matmul);

TEST_P(Matmul, EqualsTheDefinitionForEveryTransposeShapeAndOutputType) {
    for (const Shape3& s : {Shape3{1, 1, 1}, {3, 7, 1}, {1, 33, 17}, {17, 1, 33}, {33, 17, 64}, {65, 66, 67}})
        for (int flags = 0; flags < 16; ++flags) {
            const bool transpose_a = (flags & 1) != 0;
            const bool transpose_b = (flags & 2) != 0;
            const bool accumulate = (flags & 4) != 0;
            const DType to = (flags & 8) != 0 ? accumulator_of(GetParam()) : GetParam();
            SCOPED_TRACE(cat(s.m, "x", s.n, "x", s.k, " flags ", flags));
            const Tensor a = operand(s.m, s.k, transpose_a, GetParam());
            const Tensor b = operand(s.k, s.n, transpose_b, GetParam());
            const Tensor y = output({s.m, s.n}, to, accumulate);
            std::vector<Want> want = product(a, transpose_a, b, transpose_b, s);
            if (accumulate) add_before(want, y);
            matmul(y, a, transpose_a, b, transpose_b, accumulate);
            expect_near(y, want, static_cast<double>(s.k + 2));
        }
}

TEST_P(Matmul, EmptySumsAreZeroAndEmptyProductsAreNothing) {
    const Tensor y = poisoned({3, 2}, GetParam());
    matmul(y, Tensor::empty({3, 0}, GetParam()), false, Tensor::empty({0, 2}, GetParam()), false);
    for (const double v : values(y)) EXPECT_EQ(v, 0.0);
    const Tensor kept = Tensor::full({3, 2}, GetParam(), 5.0);
    matmul(kept, Tensor::empty({3, 0}, GetParam()), false, Tensor::empty({0, 2}, GetParam()), false, true);
    for (const double v : values(kept)) EXPECT_EQ(v, 5.0);
    EXPECT_NO_THROW(matmul(Tensor::empty({0, 2}, GetParam()), Tensor::empty({0, 4}, GetParam()), false,
                           normal({4, 2}, GetParam()), false));
}

TEST_P(Matmul, RepeatedCallsGiveTheSameBits) {
    const Tensor a = normal({37, 129}, GetParam());
    const Tensor b = normal({65, 129}, GetParam());
    const Tensor first = poisoned({37, 65}, GetParam());
    matmul(first, a, false, b, true);
    for (int repeat = 0; repeat < 5; ++repeat) {
        const Tensor again = poisoned({37, 65}, GetParam());
        matmul(again, a, false, b, true);
        EXPECT_TRUE(same_bits(first, again));
    }
}

TEST_P(Matmul, GivesTheSameBitsForAnyThreads) {
    // Tall, wide and deep: the deep one tempts a library to cut the sum itself.
    for (const Shape3& s : {Shape3{300, 64, 64}, {16, 1000, 64}, {8, 16, 4001}}) {
        const Tensor a = normal({s.m, s.k}, GetParam());
        const Tensor b = normal({s.k, s.n}, GetParam());
        expect_same_bits_for_any_threads([&] {
            const Tensor y = poisoned({s.m, s.n}, accumulator_of(GetParam()));
            matmul(y, a, false, b, false);
            return std::vector<Tensor>{y};
        });
    }
}

TEST(MatmulChecks, ShapesAndTypesThatDisagreeAreRefused) {
    const Tensor a = Tensor::zeros({2, 3}, DType::f32);
    const Tensor b = Tensor::zeros({3, 4}, DType::f32);
    const Tensor y = Tensor::zeros({2, 4}, DType::f32);
    EXPECT_NO_THROW(matmul(y, a, false, b, false));
    EXPECT_THROW(matmul(y, a, true, b, false), Error);
    EXPECT_THROW(matmul(y, a, false, b, true), Error);
    EXPECT_THROW(matmul(y, a, false, b.to(DType::bf16), false), Error);
    EXPECT_THROW(matmul(y.to(DType::f64), a, false, b, false), Error);
    EXPECT_THROW(matmul(Tensor::zeros({2, 5}, DType::f32), a, false, b, false), Error);
}

}  // namespace
}  // namespace uipe::tensor::test
