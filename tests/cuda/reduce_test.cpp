#include "tests/cuda/cuda_test.h"

namespace uipe::tensor::test {
namespace {

class CudaReduce : public CudaFloats {};
UIPE_CUDA_FLOATS(CudaReduce);

// One block, several, and more pieces than there are blocks.
const std::vector<std::int64_t> sizes{0, 1, 7, 8, 1031, 40003};

TEST_P(CudaReduce, SumAndSquares) {
    for (const std::int64_t n : sizes) {
        SCOPED_TRACE(cat("n ", n));
        const Tensor x = normal({n}, GetParam());
        const Tensor want = poisoned({1}, DType::f64);
        sum(want, wide(x));
        // The device adds in f64 what the CPU adds in f64: they differ by the order, n roundings of 2^-53.
        const Tensor got = on(poisoned({1}, DType::f64));
        sum(got, on(x));
        EXPECT_NEAR(got.item(), want.item(), 1e-10);
        const Tensor narrow = on(poisoned({1}, GetParam()));
        sum(narrow, on(x));
        expect_elements(narrow, want, 1.0);

        const Tensor squares = on(Tensor::full({1}, DType::f64, 3.0));
        add_squares(squares, on(x));
        const double expected = sum_of_squares(wide(x));
        EXPECT_NEAR(squares.item(), 3.0 + expected, 1e-12 * (expected + 3.0));
        EXPECT_NEAR(sum_of_squares(on(x)), expected, 1e-12 * expected);
    }
}

TEST_P(CudaReduce, SumsOfRowsThatAreNotAlignedToAVector) {
    const Tensor x = normal({9, 7}, GetParam());
    EXPECT_NEAR(sum_of_squares(on(x).rows(1, 8)), sum_of_squares(wide(x).rows(1, 8)), 1e-10);
}

TEST_P(CudaReduce, SquaresBeyondTheRangeOfF32) {
    const Tensor x = on(Tensor::full({100}, GetParam(), 0x1p100));
    EXPECT_EQ(sum_of_squares(x), 100.0 * 0x1p200);
}

TEST_P(CudaReduce, AllFinite) {
    const double infinity = std::numeric_limits<double>::infinity();
    for (const std::int64_t n : sizes) {
        EXPECT_TRUE(all_finite(on(normal({n}, GetParam()))));
        if (n == 0) continue;
        for (const double bad : {infinity, -infinity, std::nan("")})
            for (const std::int64_t at : {std::int64_t{0}, n / 2, n - 1}) {
                std::vector<double> x(static_cast<std::size_t>(n), 1.0);
                x[static_cast<std::size_t>(at)] = bad;
                EXPECT_FALSE(all_finite(on(from_doubles(x, {n}, GetParam())))) << bad << " at " << at << " of " << n;
            }
    }
}

TEST_P(CudaReduce, SegmentSums) {
    for (const auto& lengths : std::vector<std::vector<std::int32_t>>{{1}, {0, 5, 0, 33, 300, 1}, {}}) {
        const Tensor cu = packed(lengths);
        const std::int64_t T = cu.to_vector<std::int32_t>().back();
        const auto B = static_cast<std::int64_t>(lengths.size());
        const Tensor x = normal({T}, GetParam());
        const Tensor got = on(poisoned({B}, GetParam()));
        const Tensor want = poisoned({B}, DType::f64);
        segment_sum(got, on(x), cu);
        segment_sum(want, wide(x), cu);
        expect_elements(got, want, 1.0);
        for (const bool accumulate : {false, true}) {
            const Tensor dy = normal({B}, GetParam());
            const Tensor dx = output({T}, GetParam(), accumulate);
            const Tensor got_dx = on(dx);
            const Tensor want_dx = wide(dx);
            segment_sum_backward(got_dx, on(dy), cu, accumulate);
            segment_sum_backward(want_dx, wide(dy), cu, accumulate);
            expect_elements(got_dx, want_dx, 1.0);
        }
    }
}

TEST_P(CudaReduce, SquaredDistances) {
    for (const auto& [T, C] : {std::pair<std::int64_t, std::int64_t>{0, 8}, {1, 1}, {5, 7}, {3, 64}, {17, 1032}})
        for (const bool one_row : {false, true})
            for (const bool accumulate : {false, true}) {
                const Tensor x = normal({T, C}, GetParam());
                const Tensor y = normal({one_row ? 1 : T, C}, GetParam());
                const Tensor dd = normal({T}, DType::f32);
                const Tensor got = on(poisoned({T}, DType::f32));
                const Tensor want = poisoned({T}, DType::f64);
                squared_distance(got, on(x), on(y));
                squared_distance(want, wide(x), wide(y));
                expect_elements(got, want);
                const Tensor dx = output({T, C}, GetParam(), accumulate);
                const Tensor got_dx = on(dx);
                const Tensor want_dx = wide(dx);
                squared_distance_backward(got_dx, on(dd), on(x), on(y), accumulate);
                squared_distance_backward(want_dx, wide(dd), wide(x), wide(y), accumulate);
                expect_elements(got_dx, want_dx, 1.0);
            }
}

}  // namespace
}  // namespace uipe::tensor::test
