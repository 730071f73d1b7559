#include "tests/tensor/reference.h"

namespace uipe::tensor::test {
namespace {

const std::vector<std::int64_t> lengths{0, 1, 3, 17, 4095, 4096, 4097, 50021};

class Reduce : public EachType {};
UIPE_EACH_FLOAT_TYPE(Reduce);

TEST_P(Reduce, SumAndSumOfSquaresOfEveryLength) {
    for (const std::int64_t n : lengths) {
        SCOPED_TRACE(n);
        const Tensor x = normal({n}, GetParam());
        Want total;
        Want squares;
        for (const double v : values(x)) {
            total.add(v);
            squares.add(v * v);
        }
        const Tensor y = poisoned({1}, GetParam());
        sum(y, x);
        expect_near(y, {total}, static_cast<double>(n));
        EXPECT_NEAR(sum_of_squares(x), squares.value, 2.0 * static_cast<double>(n + 1) * 0x1p-53 * squares.terms);
    }
}

TEST_P(Reduce, SumOfManyLikeNumbersLosesNothingToItsLength) {
    // A running bf16 or f32 sum of ones would stop growing long before.
    const Tensor x = Tensor::full({50021}, GetParam(), 1.0);
    const Tensor y = poisoned({1}, DType::f64);
    sum(y, x);
    EXPECT_EQ(y.item(), 50021.0);
}

TEST_P(Reduce, AllFiniteFindsOneBadElementAnywhere) {
    for (const std::int64_t n : {1, 17, 9000}) {
        const Tensor x = normal({n}, GetParam());
        EXPECT_TRUE(all_finite(x));
        const double infinity = std::numeric_limits<double>::infinity();
        for (const double bad : {std::nan(""), infinity, -infinity}) {
            for (const std::int64_t at : {std::int64_t{0}, n / 2, n - 1}) {
                const Tensor y = x.clone();
                fill(y.rows(at, at + 1), bad);
                EXPECT_FALSE(all_finite(y)) << bad << " at " << at << " of " << n;
            }
        }
    }
    EXPECT_TRUE(all_finite(Tensor::full({5}, GetParam(), 3e38)));
}

TEST_P(Reduce, SegmentSumSumsEachSequenceAndAnEmptyOneIsZero) {
    const Tensor cu = packed({0, 3, 1, 0, 17, 300, 0});
    const auto offsets = cu.to_vector<std::int32_t>();
    const Tensor x = normal({offsets.back()}, GetParam());
    const auto vx = values(x);
    std::vector<Want> want(offsets.size() - 1);
    for (std::size_t b = 0; b < want.size(); ++b)
        for (auto t = static_cast<std::size_t>(offsets[b]); t < static_cast<std::size_t>(offsets[b + 1]); ++t)
            want[b].add(vx[t]);
    const Tensor y = poisoned({7}, GetParam());
    segment_sum(y, x, cu);
    expect_near(y, want, 300);
}

TEST_P(Reduce, SegmentSumBackwardSpreadsTheGradientOverItsRows) {
    const Tensor cu = packed({0, 3, 1, 0, 17});
    const auto offsets = cu.to_vector<std::int32_t>();
    for (const bool accumulate : {false, true}) {
        const Tensor dy = normal({5}, GetParam());
        const Tensor dx = output({21}, GetParam(), accumulate);
        std::vector<Want> want(21);
        for (std::size_t b = 0; b < 5; ++b)
            for (auto t = static_cast<std::size_t>(offsets[b]); t < static_cast<std::size_t>(offsets[b + 1]); ++t)
                want[t].add(values(dy)[b]);
        if (accumulate) add_before(want, dx);
        segment_sum_backward(dx, dy, cu, accumulate);
        expect_near(dx, want, 1);
    }
}

TEST_P(Reduce, SquaredDistanceOfEachRowAndItsGradient) {
    for (const auto& [T, C] : {std::pair<std::int64_t, std::int64_t>{0, 3}, {1, 1}, {5, 7}, {17, 64}, {33, 131}})
        for (const bool one_row : {false, true})
            for (const bool accumulate : {false, true}) {
                const Tensor x = normal({T, C}, GetParam());
                const Tensor y = normal({one_row ? 1 : T, C}, GetParam());
                const DType acc = accumulator_of(GetParam());
                const Tensor dd = normal({T}, acc);
                const Tensor d = poisoned({T}, acc);
                const Tensor dx = output({T, C}, GetParam(), accumulate);
                const auto p = values(x);
                const auto q = values(y);
                const auto g = values(dd);
                std::vector<Want> want(static_cast<std::size_t>(T));
                std::vector<Want> want_dx(p.size());
                for (std::size_t i = 0; i < p.size(); ++i) {
                    const std::size_t t = i / static_cast<std::size_t>(C);
                    const double apart = p[i] - q[one_row ? i % static_cast<std::size_t>(C) : i];
                    want[t].add(apart * apart);
                    want_dx[i].add(2.0 * g[t] * apart);
                }
                if (accumulate) add_before(want_dx, dx);
                squared_distance(d, x, y);
                squared_distance_backward(dx, dd, x, y, accumulate);
                expect_near(d, want, static_cast<double>(C) + 4);
                expect_near(dx, want_dx, 4);
            }
    EXPECT_THROW(squared_distance(Tensor::zeros({3}, DType::f32), Tensor::zeros({3, 2}, DType::f32),
                                  Tensor::zeros({2, 2}, DType::f32)),
                 Error);
}

TEST_P(Reduce, SumBackwardSpreadsOneNumberOverAllElements) {
    for (const DType from : {GetParam(), DType::f32})
        for (const bool accumulate : {false, true})
            for (const std::int64_t n : {0, 1, 17, 4097}) {
                const Tensor dy = normal({1}, from);
                const Tensor dx = output({n}, GetParam(), accumulate);
                std::vector<Want> want(static_cast<std::size_t>(n));
                for (Want& w : want) w.add(values(dy)[0]);
                if (accumulate) add_before(want, dx);
                sum_backward(dx, dy, accumulate);
                expect_near(dx, want, 1);
            }
    EXPECT_THROW(sum_backward(normal({2}, GetParam()), normal({2}, GetParam()), false), Error);
}

TEST_P(Reduce, GivesTheSameBitsForAnyThreads) {
    const Tensor x = normal({70001}, GetParam());
    std::vector<double> squares;
    expect_same_bits_for_any_threads([&] {
        const Tensor y = poisoned({1}, DType::f64);
        sum(y, x);
        squares.push_back(sum_of_squares(x));
        return std::vector<Tensor>{y};
    });
    EXPECT_EQ(squares[0], squares[1]);
    EXPECT_EQ(squares[0], squares[2]);
}

TEST(ReduceChecks, RefusesOffsetsThatFallOrDoNotEndAtT) {
    const Tensor x = Tensor::zeros({4}, DType::f32);
    const Tensor y = Tensor::zeros({2}, DType::f32);
    for (const std::vector<std::int32_t>& cu :
         {std::vector<std::int32_t>{0, 5, 4}, {1, 2, 4}, {0, 2, 3}, {0, -1, 4}, {0, 4}})
        EXPECT_THROW(segment_sum(y, x, Tensor::from(cu)), Error);
    EXPECT_NO_THROW(segment_sum(y, x, Tensor::from(std::vector<std::int32_t>{0, 2, 4})));
}

}  // namespace
}  // namespace uipe::tensor::test
