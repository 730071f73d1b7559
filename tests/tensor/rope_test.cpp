#include "tests/tensor/reference.h"

namespace uipe::tensor::test {
namespace {

class Rope : public EachType {};
UIPE_EACH_FLOAT_TYPE(Rope);

/// x rotated by sign * position * theta^(-2i/D), element i of each head with i + D/2.
std::vector<Want> rotated(const Tensor& x_tensor, const Tensor& positions, std::int64_t D, double theta, double sign) {
    const auto x = values(x_tensor);
    const auto position = values(positions);
    const std::int64_t width = x_tensor.dim(1);
    std::vector<Want> y(x.size());
    for (std::int64_t t = 0; t < x_tensor.dim(0); ++t)
        for (std::int64_t c = 0; c < width; ++c) {
            const std::int64_t d = c % D;
            const bool first = d < D / 2;
            const std::int64_t i = first ? d : d - D / 2;
            const double angle = sign * position[static_cast<std::size_t>(t)] *
                                 std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(D));
            const auto at = static_cast<std::size_t>(t * width + c);
            const auto other = static_cast<std::size_t>(t * width + c + (first ? D / 2 : -D / 2));
            y[at].add(x[at] * std::cos(angle));
            y[at].add((first ? -1.0 : 1.0) * x[other] * std::sin(angle));
        }
    return y;
}

TEST_P(Rope, RotatesHalfSplitPairsByThePositionForwardInverseAndAdding) {
    for (const auto& [heads, D] : {std::pair<std::int64_t, std::int64_t>{1, 2}, {3, 6}, {2, 10}, {5, 64}})
        for (const bool inverse : {false, true})
            for (const bool accumulate : {false, true}) {
                SCOPED_TRACE(cat("heads ", heads, " D ", D, " inverse ", inverse, " accumulate ", accumulate));
                // Positions on both sides of any table a kernel may keep.
                const Tensor positions =
                    Tensor::from(std::vector<std::int32_t>{0, 1, 7, 169, 2047, 4095, 4096, 4097, 70000});
                const Tensor x = normal({9, heads * D}, GetParam());
                const Tensor y = output(x.shape(), GetParam(), accumulate);
                std::vector<Want> want = rotated(x, positions, D, 10000.0, inverse ? -1.0 : 1.0);
                if (accumulate) add_before(want, y);
                // Cosine, sine, product, sum, and what was there: 5. In f64 an angle of 70000 that is one rounding
                // off moves its sine by as much: 70000 roundings more.
                const double roundings = GetParam() == DType::f64 ? 70000.0 : 6.0;
                rope(y, x, positions, D, 10000.0, inverse, accumulate);
                expect_near(y, want, roundings);
            }
}

TEST_P(Rope, PositionZeroChangesNoBitAndThetaMatters) {
    const Tensor x = normal({1, 12}, GetParam());
    const Tensor y = poisoned(x.shape(), GetParam());
    rope(y, x, Tensor::from(std::vector<std::int32_t>{0}), 6, 10000.0, false);
    EXPECT_TRUE(same_bits(x, y));
    const Tensor three = Tensor::from(std::vector<std::int32_t>{3});
    const Tensor z = poisoned(x.shape(), GetParam());
    rope(y, x, three, 6, 10000.0, false);
    rope(z, x, three, 6, 500000.0, false);
    EXPECT_FALSE(same_bits(y, z));
}

TEST_P(Rope, ScoresDependOnTheDistanceOfPositionsAlone) {
    const std::int64_t D = 16;
    const Tensor q = normal({1, D}, DType::f64);
    const Tensor k = normal({1, D}, DType::f64);
    auto score = [&](std::int32_t at_q, std::int32_t at_k) {
        const Tensor rq = poisoned({1, D}, DType::f64);
        const Tensor rk = poisoned({1, D}, DType::f64);
        rope(rq, q, Tensor::from(std::vector<std::int32_t>{at_q}), D, 10000.0, false);
        rope(rk, k, Tensor::from(std::vector<std::int32_t>{at_k}), D, 10000.0, false);
        double s = 0.0;
        for (std::size_t d = 0; d < static_cast<std::size_t>(D); ++d) s += values(rq)[d] * values(rk)[d];
        return s;
    };
    EXPECT_NEAR(score(5, 2), score(105, 102), 1e-11);
    EXPECT_GT(std::abs(score(5, 2) - score(5, 4)), 1e-6);
}

TEST_P(Rope, GivesTheSameBitsForAnyThreads) {
    const Tensor x = normal({101, 24}, GetParam());
    const Tensor positions = indices(101, 0, 5000);
    expect_same_bits_for_any_threads([&] {
        const Tensor y = poisoned(x.shape(), GetParam());
        rope(y, x, positions, 8, 10000.0, false);
        return std::vector<Tensor>{y};
    });
}

}  // namespace
}  // namespace uipe::tensor::test
