// Products on the device against the same in f64. (cuBLASLt's on a GPU; beside the emulator the CPU's, oneDNN.)
#include "tests/cuda/cuda_test.h"

namespace uipe::tensor::test {
namespace {

struct Shape3 {
    std::int64_t m, n, k;
};

class CudaMatmul : public CudaFloats {};
UIPE_CUDA_FLOATS(CudaMatmul);

Tensor operand(std::int64_t rows, std::int64_t columns, bool transposed, DType dtype) {
    return transposed ? normal({columns, rows}, dtype) : normal({rows, columns}, dtype);
}

/// op(a) op(b) in f64, and what the absolute values of its terms add up to.
std::vector<Want> expected(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b) {
    const auto value = values(product(wide(a), transpose_a, wide(b), transpose_b));
    const auto terms = values(product(absolute(a), transpose_a, absolute(b), transpose_b));
    std::vector<Want> want(value.size());
    for (std::size_t i = 0; i < want.size(); ++i) want[i] = {value[i], terms[i]};
    return want;
}

TEST_P(CudaMatmul, EqualsTheDefinitionForEveryTransposeShapeAndOutputType) {
    for (const Shape3& s :
         {Shape3{1, 1, 1}, {3, 7, 1}, {1, 33, 17}, {17, 1, 33}, {33, 17, 64}, {65, 66, 67}, {8, 136, 256}})
        for (int flags = 0; flags < 16; ++flags) {
            const bool transpose_a = (flags & 1) != 0;
            const bool transpose_b = (flags & 2) != 0;
            const bool accumulate = (flags & 4) != 0;
            const DType to = (flags & 8) != 0 ? accumulator_of(GetParam()) : GetParam();
            SCOPED_TRACE(cat(s.m, "x", s.n, "x", s.k, " flags ", flags));
            const Tensor a = operand(s.m, s.k, transpose_a, GetParam());
            const Tensor b = operand(s.k, s.n, transpose_b, GetParam());
            const Tensor before = output({s.m, s.n}, to, accumulate);
            std::vector<Want> want = expected(a, transpose_a, b, transpose_b);
            if (accumulate) add_before(want, before);
            const Tensor y = on(before);
            matmul(y, on(a), transpose_a, on(b), transpose_b, accumulate);
            expect_near(y.to(Device{}), want, static_cast<double>(s.k + 2));
        }
}

TEST_P(CudaMatmul, TakesRowsThatBeginAnywhere) {
    const Tensor a = normal({9, 35}, GetParam());
    const Tensor b = normal({12, 35}, GetParam());
    const Tensor y = on(Tensor::full({11, 7}, GetParam(), 3.0));
    for (const std::int64_t first : {1, 2, 4}) {
        matmul(y.rows(first, first + 5), on(a).rows(first, first + 5), false, on(b).rows(first, first + 7), true);
        expect_near(y.rows(first, first + 5).to(Device{}),
                    expected(a.rows(first, first + 5), false, b.rows(first, first + 7), true), 37);
        for (const Tensor& around : {y.rows(0, 1), y.rows(9, 11)})
            for (const double v : values(around.to(Device{}))) ASSERT_EQ(v, 3.0);
    }
}

TEST_P(CudaMatmul, LargeProductsAreAddedOnceAndKeepTheirBits) {
    // 1.07 GFLOP, enough to be measured (another test program run, with UIPE_MATMUL=measured, asks for that); a shape
    // of the same class follows.
    for (const Shape3& s : {Shape3{1024, 512, 1024}, {1000, 512, 1024}}) {
        const Tensor a = normal({s.k, s.m}, GetParam());
        const Tensor b = normal({s.k, s.n}, GetParam());
        const Tensor before = normal({s.m, s.n}, DType::f32);
        Tensor first;
        for (int round = 0; round < 3; ++round) {
            const Tensor y = on(before.clone());
            matmul(y, on(a), true, on(b), false, true);
            const Tensor got = y.to(Device{});
            if (round == 0) first = got;
            EXPECT_TRUE(same_bits(got, first));
        }
        // f64 for the last rows alone: their columns of a, turned.
        constexpr std::int64_t rows = 4;
        Tensor last = Tensor::empty({rows, s.k}, DType::f64);
        const auto all = values(a);
        for (std::int64_t i = 0; i < rows; ++i)
            for (std::int64_t l = 0; l < s.k; ++l)
                last.data<double>()[i * s.k + l] = all[static_cast<std::size_t>(l * s.m + s.m - rows + i)];
        std::vector<Want> want = expected(last, false, b, false);
        add_before(want, before.rows(s.m - rows, s.m));
        expect_near(first.rows(s.m - rows, s.m), want, static_cast<double>(s.k + 2));
    }
}

TEST_P(CudaMatmul, EmptySumsAreZeroAndEmptyProductsAreNothing) {
    const Tensor left = on(Tensor::empty({3, 0}, GetParam()));
    const Tensor right = on(Tensor::empty({0, 2}, GetParam()));
    const Tensor y = on(poisoned({3, 2}, GetParam()));
    matmul(y, left, false, right, false);
    for (const double v : values(y.to(Device{}))) EXPECT_EQ(v, 0.0);
    const Tensor kept = on(Tensor::full({3, 2}, GetParam(), 5.0));
    matmul(kept, left, false, right, false, true);
    for (const double v : values(kept.to(Device{}))) EXPECT_EQ(v, 5.0);
    EXPECT_NO_THROW(matmul(on(Tensor::empty({0, 2}, GetParam())), on(Tensor::empty({0, 4}, GetParam())), false,
                           on(normal({4, 2}, GetParam())), false));
}

}  // namespace
}  // namespace uipe::tensor::test
