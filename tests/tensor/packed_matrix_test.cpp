// Products with a packed weight are those of matmul.
#include "tensor/packed_matrix.h"

#include "tests/tensor/reference.h"

namespace uipe::tensor::test {
namespace {

class Packed : public EachType {};
UIPE_EACH_FLOAT_TYPE(Packed);

TEST_P(Packed, MultipliesAsMatmulForAnyNumberOfRows) {
    for (const auto& [N, C] : {std::pair<std::int64_t, std::int64_t>{1, 1}, {33, 17}, {64, 64}, {130, 100}}) {
        const Tensor w = normal({N, C}, GetParam());
        for (const bool pack : {true, false}) {
            const PackedMatrix matrix(w, pack);
            for (const std::int64_t T : {1, 2, 3, 16, 80, 600})
                for (const DType to : {GetParam(), accumulator_of(GetParam())}) {
                    SCOPED_TRACE(cat(T, "x", N, "x", C, pack ? " packed" : ""));
                    const Tensor x = normal({T, C}, GetParam());
                    const Tensor y = poisoned({T, N}, to);
                    const Tensor expected = poisoned({T, N}, to);
                    matrix.multiply(y, x);
                    matmul(expected, x, false, w, true);
                    const auto got = values(y);
                    const auto want = values(expected);
                    const auto size = [](const Tensor& t) { return std::sqrt(sum_of_squares(t)); };
                    // Each of C terms of a sum may round, and the result in its type.
                    const double near = static_cast<double>(C) * unit(accumulator_of(GetParam())) + unit(to);
                    const double sizes = size(x) * size(w);
                    for (std::size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[i], near * sizes);
                }
        }
    }
}

TEST(PackedMatrix, NamesWhatDoesNotFit) {
    const PackedMatrix w(Tensor::zeros({4, 3}, DType::f32));
    EXPECT_THROW(w.multiply(Tensor::zeros({8, 4}, DType::f32), Tensor::zeros({8, 2}, DType::f32)), Error);
    EXPECT_THROW(w.multiply(Tensor::zeros({8, 5}, DType::f32), Tensor::zeros({8, 3}, DType::f32)), Error);
    EXPECT_THROW(w.multiply(Tensor::zeros({8, 4}, DType::f64), Tensor::zeros({8, 3}, DType::f64)), Error);
}

}  // namespace
}  // namespace uipe::tensor::test
