// Vectors and elements, streamed and plain stores: one result.
#include "tests/tensor/reference.h"

namespace uipe::tensor::test {
namespace {

/// Larger than what the kernels take the caches to hold, so that outputs are streamed past them.
constexpr std::int64_t rows = 4100;
constexpr std::int64_t width = 4352;

class Streamed : public ::testing::TestWithParam<DType> {
protected:
    /// Expects run(y rows, first, last) on all rows at once, and on a few at a time, to give the same bits.
    template <class Run>
    void expect_same(const Run& run) {
        const Tensor whole = poisoned({rows, width}, GetParam());
        run(whole, 0, rows);
        const Tensor parts = poisoned({rows, width}, GetParam());
        for (std::int64_t at = 0; at < rows; at += 1025)
            run(parts.rows(at, std::min(rows, at + 1025)), at, std::min(rows, at + 1025));
        EXPECT_TRUE(same_bits(whole, parts));
    }
    Tensor random(std::uint64_t stream) const {
        Tensor x = Tensor::empty({rows, width}, GetParam());
        fill_normal(x, 1.0, seed(), stream);
        return x;
    }
};
INSTANTIATE_TEST_SUITE_P(Types, Streamed, ::testing::Values(DType::f32, DType::bf16), type_name);

TEST_P(Streamed, SumsAndNormsOfLargeTensorsAreThoseOfTheirParts) {
    const Tensor x = random(0);
    const Tensor r = random(1);
    const Tensor w = normal({width}, GetParam());
    expect_same([&](const Tensor& y, std::int64_t a, std::int64_t b) { add(y, x.rows(a, b), r.rows(a, b)); });
    expect_same([&](const Tensor& y, std::int64_t a, std::int64_t b) { swiglu(y, x.rows(a, b), r.rows(a, b)); });
    expect_same([&](const Tensor& y, std::int64_t a, std::int64_t b) {
        rmsnorm(y, Tensor::empty({b - a}, DType::f32), x.rows(a, b), w, 1e-5);
    });
    const Tensor sum = poisoned({rows, width}, GetParam());
    expect_same([&](const Tensor& y, std::int64_t a, std::int64_t b) {
        add_rmsnorm(sum.rows(a, b), y, Tensor::empty({b - a}, DType::f32), x.rows(a, b), r.rows(a, b), w, 1e-5);
    });
    expect_same([&](const Tensor& h, std::int64_t a, std::int64_t b) {
        add_rmsnorm(h, sum.rows(a, b), Tensor::empty({b - a}, DType::f32), x.rows(a, b), r.rows(a, b), w, 1e-5);
    });
    expect_same([&](const Tensor& y, std::int64_t a, std::int64_t b) { copy(y, x.rows(a, b)); });
    expect_same([&](const Tensor& y, std::int64_t a, std::int64_t b) { mul(y, x.rows(a, b), r.rows(a, b)); });
    const Tensor rstd = Tensor::full({rows}, DType::f32, 0.75);
    expect_same([&](const Tensor& y, std::int64_t a, std::int64_t b) {
        rmsnorm_backward(y, {}, r.rows(a, b), x.rows(a, b), w, rstd.rows(a, b), false);
    });
    expect_same([&](const Tensor& y, std::int64_t a, std::int64_t b) {
        swiglu_backward(y, Tensor::empty(y.shape(), y.dtype()), r.rows(a, b), x.rows(a, b), r.rows(a, b), false, false);
    });
    std::vector<std::int32_t> places(rows);
    std::iota(places.begin(), places.end(), 7);
    expect_same([&](const Tensor& y, std::int64_t a, std::int64_t b) {
        const std::vector<std::int32_t> some(places.begin() + a, places.begin() + b);
        rope(y, x.rows(a, b), Tensor::from(some), 64, 1e4, false);
    });
    const Tensor tokens = indices(rows, 0, 4100);
    expect_same([&](const Tensor& y, std::int64_t a, std::int64_t b) {
        const auto all = tokens.to_vector<std::int32_t>();
        embedding(y, x, Tensor::from(std::vector<std::int32_t>(all.begin() + a, all.begin() + b)));
    });
}

TEST(Bf16Vectors, RoundAsElementsDo) {
    // Every upper half of an f32, with lower halves that round down, tie and round up: NaN, infinities and numbers
    // below the normal ones included.
    std::vector<float> x;
    for (std::uint32_t upper = 0; upper < 0x10000; upper += 7)
        for (const std::uint32_t lower : {0x0000U, 0x7fffU, 0x8000U, 0x8001U, 0xffffU})
            x.push_back(std::bit_cast<float>(upper << 16 | lower));
    const Tensor y = poisoned({static_cast<std::int64_t>(x.size())}, DType::bf16);
    copy(y, Tensor::from(x));
    const Tensor back = poisoned(y.shape(), DType::f32);
    copy(back, y);
    for (std::size_t i = 0; i < x.size(); ++i) {
        const bf16 want(x[i]);
        ASSERT_EQ(y.data<bf16>()[i].bits, want.bits) << std::bit_cast<std::uint32_t>(x[i]);
        ASSERT_EQ(std::bit_cast<std::uint32_t>(back.data<float>()[i]), std::uint32_t{want.bits} << 16);
    }
}

}  // namespace
}  // namespace uipe::tensor::test
