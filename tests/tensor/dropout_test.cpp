// Dropout: its mask goes by where a row stands in its step, and by nothing else.
#include "tensor/dropout.h"

#include "tests/tensor/reference.h"

namespace uipe::tensor::test {
namespace {

constexpr std::uint64_t key = 77;
constexpr std::uint64_t stream = 3;

Tensor places_from(std::int32_t first, std::int64_t T) {
    std::vector<std::int32_t> x(static_cast<std::size_t>(T));
    std::iota(x.begin(), x.end(), first);
    return Tensor::from(x);
}

/// The factor of element c of the row of C at `place`: 0, or 1 / (1 - p). Of four neighbours each takes its own word.
double factor(std::int32_t place, std::int64_t C, std::int64_t c, double p) {
    const auto block = static_cast<std::uint64_t>(place * ((C + 3) / 4) + c / 4);
    const double draw = philox(key, stream, block)[static_cast<std::size_t>(c % 4)] * 0x1p-32;
    return draw < p ? 0.0 : 1.0 / (1.0 - p);
}

class DropoutOp : public EachType {};
UIPE_EACH_FLOAT_TYPE(DropoutOp);

TEST_P(DropoutOp, IsItsFormulaWrittenOverAndAddedTo) {
    for (const Shape& shape : {Shape{1, 1}, Shape{3, 7}, Shape{5, 64}, Shape{2, 67}, Shape{4, 200}, Shape{0, 8}})
        for (const double p : {0.0, 0.05, 0.5, 0.9})
            for (const bool accumulate : {false, true}) {
                const Tensor x = normal(shape, GetParam());
                const Tensor y = output(shape, GetParam(), accumulate);
                std::vector<Want> want(static_cast<std::size_t>(y.numel()));
                const std::vector<double> in = values(x);
                for (std::size_t i = 0; i < want.size(); ++i) {
                    const auto at = static_cast<std::int64_t>(i);
                    const auto place = static_cast<std::int32_t>(11 + at / shape[1]);
                    want[i].add(in[i] * factor(place, shape[1], at % shape[1], p));
                }
                if (accumulate) add_before(want, y);
                dropout(y, x, places_from(11, shape[0]), p, key, stream, accumulate);
                expect_near(y, want, 3.0);
            }
}

TEST_P(DropoutOp, DropsItsShareAndKeepsTheMean) {
    const Tensor x = Tensor::full({400, 250}, GetParam(), 1.0);
    const Tensor y = poisoned(x.shape(), GetParam());
    dropout(y, x, places_from(0, 400), 0.25, seed(), stream);
    double dropped = 0;
    double sum = 0;
    for (const double v : values(y)) {
        dropped += v == 0.0 ? 1.0 : 0.0;
        sum += v;
    }
    // A hundred thousand draws: six standard deviations.
    const double six = 6 * std::sqrt(0.25 * 0.75 / 1e5);
    EXPECT_NEAR(dropped / 1e5, 0.25, six);
    // What is left is 1 / 0.75, rounded to the type.
    EXPECT_NEAR(sum / 1e5, 1.0, six / 0.75 + (GetParam() == DType::bf16 ? 0x1p-8 : 0x1p-23));
}

TEST_P(DropoutOp, ARowHasItsMaskInWhateverBatchAndOnAnyNumberOfThreads) {
    const Tensor x = normal({90, 130}, GetParam());
    const Tensor whole = poisoned(x.shape(), GetParam());
    dropout(whole, x, places_from(5, 90), 0.3, key, stream);
    for (const std::int64_t cut : {1, 40, 89}) {
        const Tensor y = poisoned(x.shape(), GetParam());
        dropout(y.rows(0, cut), x.rows(0, cut), places_from(5, cut), 0.3, key, stream);
        dropout(y.rows(cut, 90), x.rows(cut, 90), places_from(5 + static_cast<std::int32_t>(cut), 90 - cut), 0.3, key,
                stream);
        EXPECT_TRUE(same_bits(y, whole)) << cut;
    }
    expect_same_bits_for_any_threads([&] {
        const Tensor y = poisoned(x.shape(), GetParam());
        dropout(y, x, places_from(5, 90), 0.3, key, stream);
        return std::vector<Tensor>{y};
    });
}

TEST(Dropout, SeedsStreamsAndPlacesDrawApart) {
    const Tensor x = Tensor::full({1, 1000}, DType::f32, 1.0);
    const auto mask = [&](std::uint64_t of_seed, std::uint64_t of_stream, std::int32_t place) {
        const Tensor y = poisoned(x.shape(), DType::f32);
        dropout(y, x, places_from(place, 1), 0.5, of_seed, of_stream);
        return values(y);
    };
    const std::vector<double> one = mask(1, 1, 1);
    for (const auto& other : {mask(2, 1, 1), mask(1, 2, 1), mask(1, 1, 2)}) {
        double alike = 0;
        for (std::size_t i = 0; i < one.size(); ++i) alike += one[i] == other[i] ? 1.0 : 0.0;
        EXPECT_NEAR(alike / 1e3, 0.5, 6 * 0.5 / std::sqrt(1e3));
    }
}

TEST(Dropout, WhatDoesNotFitIsRefused) {
    const Tensor x = Tensor::zeros({2, 4}, DType::f32);
    EXPECT_THROW(dropout(x, x, places_from(0, 3), 0.1, 0, 0), Error);
    EXPECT_THROW(dropout(x, Tensor::zeros({2, 3}, DType::f32), places_from(0, 2), 0.1, 0, 0), Error);
    EXPECT_THROW(dropout(x, x, places_from(-1, 2), 0.1, 0, 0), Error);
    for (const double p : {-0.1, 1.0, std::nan("")}) EXPECT_THROW(dropout(x, x, places_from(0, 2), p, 0, 0), Error);
}

}  // namespace
}  // namespace uipe::tensor::test
