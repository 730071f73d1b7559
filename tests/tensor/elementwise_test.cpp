#include <bit>

#include "tests/tensor/reference.h"

namespace uipe::tensor::test {
namespace {

const std::vector<std::int64_t> sizes{0, 1, 3, 17, 1000, 40001};  // the last is cut over threads
const std::vector<DType> float_types{DType::f64, DType::f32, DType::bf16};

class Elementwise : public EachType {};
UIPE_EACH_FLOAT_TYPE(Elementwise);

TEST_P(Elementwise, FillWritesEveryElementRoundedOnce) {
    // 0.1 goes to bf16 through f32: one f32 rounding more.
    for (const std::int64_t n : sizes) {
        const Tensor y = poisoned({n}, GetParam());
        fill(y, 0.1);
        expect_near(y, std::vector<Want>(static_cast<std::size_t>(n), Want{0.1, 0.1}), GetParam() == DType::bf16);
    }
}

TEST_P(Elementwise, CopyConvertsBetweenAllFloatTypesWithOneRounding) {
    for (const DType from : float_types)
        for (const std::int64_t n : sizes) {
            const Tensor x = normal({n}, from);
            const Tensor y = poisoned({n}, GetParam());
            copy(y, x);
            std::vector<Want> want;
            for (const double v : values(x)) want.push_back({v, 0.0});
            // f64 reaches bf16 through f32, which may round twice: one f32 rounding more.
            for (Want& w : want) w.terms = std::abs(w.value);
            expect_near(y, want, GetParam() == DType::bf16 && from == DType::f64 ? 1 : 0);
        }
}

TEST(Copies, OfOneTypeKeepEveryBit) {
    std::vector<bf16> all(0x10000);
    for (std::size_t i = 0; i < all.size(); ++i) all[i].bits = static_cast<std::uint16_t>(i);
    const Tensor x = Tensor::from(all, {0x10000});
    const Tensor y = poisoned({0x10000}, DType::bf16);
    copy(y, x);
    EXPECT_TRUE(same_bits(y, x));
}

TEST_P(Elementwise, AxpbyMixesTypesAndDoesNotReadYWhenItsFactorIsZero) {
    for (const DType from : float_types)
        for (const std::int64_t n : sizes)
            for (const double b : {0.0, 1.0, -0.25}) {
                SCOPED_TRACE(cat("x ", name_of(from), " n ", n, " b ", b));
                const Tensor x = normal({n}, from);
                const Tensor y = output({n}, GetParam(), b != 0.0);
                const auto old = values(y);
                const auto vx = values(x);
                std::vector<Want> want(vx.size());
                for (std::size_t i = 0; i < vx.size(); ++i) {
                    want[i].add(0.7 * vx[i]);
                    if (b != 0.0) want[i].add(b * old[i]);
                }
                axpby(y, 0.7, x, b);
                expect_near(y, want, 4);  // the factor, the conversion of x, the product, the sum
            }
}

TEST_P(Elementwise, MulAndAddAreElementByElement) {
    for (const std::int64_t n : sizes)
        for (const bool accumulate : {false, true}) {
            const Tensor a = normal({n}, GetParam());
            const Tensor b = normal({n}, GetParam());
            const auto va = values(a);
            const auto vb = values(b);
            const Tensor product = output({n}, GetParam(), accumulate);
            std::vector<Want> want(va.size());
            for (std::size_t i = 0; i < va.size(); ++i) want[i].add(va[i] * vb[i]);
            if (accumulate) add_before(want, product);
            mul(product, a, b, accumulate);
            expect_near(product, want, 2, "mul");
            const Tensor total = poisoned({n}, GetParam());
            for (std::size_t i = 0; i < va.size(); ++i) {
                want[i] = {};
                want[i].add(va[i]);
                want[i].add(vb[i]);
            }
            add(total, a, b);
            expect_near(total, want, 1, "add");
        }
}

TEST_P(Elementwise, AddWorksInPlace) {
    const Tensor x = normal({33}, GetParam());
    const Tensor r = normal({33}, GetParam());
    const Tensor apart = poisoned({33}, GetParam());
    add(apart, x, r);
    add(x, x, r);
    EXPECT_TRUE(same_bits(apart, x));
}

TEST_P(Elementwise, LogSigmoidIsStableAtBothEnds) {
    const std::vector<double> x{-1e4, -700, -90, -20, -1, -1e-3, 0, 1e-3, 1, 20, 90, 700, 1e4};
    const Tensor in = from_doubles(x, {13}, GetParam());
    const Tensor y = poisoned({13}, GetParam());
    log_sigmoid(y, in);
    std::vector<Want> want;
    for (const double v : values(in)) {
        const double s = v < 0 ? v - std::log1p(std::exp(v)) : -std::log1p(std::exp(-v));
        want.push_back({s, std::abs(s)});
    }
    expect_near(y, want, 8);  // exp and log1p of the library, the sum
}

TEST_P(Elementwise, LogSigmoidBackwardIsTheSigmoidOfMinusX) {
    for (const bool accumulate : {false, true}) {
        const Tensor x = normal({77}, GetParam(), 30.0);
        const Tensor dy = normal({77}, GetParam());
        const Tensor dx = output({77}, GetParam(), accumulate);
        const auto vx = values(x);
        const auto vdy = values(dy);
        std::vector<Want> want(vx.size());
        for (std::size_t i = 0; i < vx.size(); ++i) want[i].add(vdy[i] / (1.0 + std::exp(vx[i])));
        if (accumulate) add_before(want, dx);
        log_sigmoid_backward(dx, dy, x, accumulate);
        expect_near(dx, want, 8);
    }
}

TEST_P(Elementwise, ProbabilityWeightsKeepTheDigitsOfTheRestNearOne) {
    const std::vector<double> logs{-0.0, -1e-12, -1e-6, -1e-3, -0.1, -0.7, -1, -1.5, -5, -30};
    const Tensor logp = from_doubles(logs, {10}, GetParam());
    for (const auto& [a, b] : {std::pair{0.0, 0.0}, {1.0, 0.0}, {0.0, 1.0}, {5.0, 1.0}, {0.5, 2.5}}) {
        const Tensor y = poisoned({10}, GetParam());
        probability_weights(y, logp, a, b);
        std::vector<Want> want;
        for (const double x : values(logp)) {
            const double w = std::exp(a * x) * std::pow(-std::expm1(x), b);
            want.push_back({w, (1.0 + std::abs(a * x)) * w});  // a x is rounded before it is an exponent
        }
        expect_near(y, want, 16);
    }
    EXPECT_THROW(probability_weights(logp, logp, -1.0, 0.0), Error);
}

TEST_P(Elementwise, GivesTheSameBitsForAnyThreads) {
    const Tensor a = normal({50021}, GetParam());
    const Tensor b = normal({50021}, GetParam());
    expect_same_bits_for_any_threads([&] {
        const Tensor product = poisoned(a.shape(), GetParam());
        mul(product, a, b);
        const Tensor total = poisoned(a.shape(), GetParam());
        add(total, a, b);
        const Tensor mixed = a.clone();
        axpby(mixed, 0.3, b, 0.9);
        const Tensor further = poisoned(a.shape(), GetParam());
        extrapolate(further, a, b, 0.37);
        return std::vector<Tensor>{product, total, mixed, further};
    });
}

TEST(ElementwiseChecks, ShapesAndTypesThatDisagreeAreNamed) {
    const Tensor two = Tensor::zeros({2}, DType::f32);
    const Tensor three = Tensor::zeros({3}, DType::bf16);
    try {
        mul(two, two, three);
        FAIL() << "no error";
    } catch (const Error& e) {
        EXPECT_NE(std::string(e.what()).find("mul"), std::string::npos) << e.what();
        EXPECT_NE(std::string(e.what()).find("bf16[3]"), std::string::npos) << e.what();
    }
    EXPECT_THROW(add(two, three, two), Error);
    EXPECT_THROW(copy(two, three), Error);
    EXPECT_THROW(axpby(two, 1.0, three, 0.0), Error);
    EXPECT_THROW(extrapolate(two, two, three, 1.0), Error);
    EXPECT_THROW(add(two, Tensor(), two), Error);
}

// --- Extrapolation ------------------------------------------------------------------------------------------------

/// Finite numbers of every magnitude and both signs, zeros of both signs among them.
Tensor wild(std::int64_t n, DType dtype) {
    Random random = fresh();
    std::vector<double> x(static_cast<std::size_t>(n));
    for (double& v : x) v = (random.uniform() - 0.5) * std::pow(10.0, 70.0 * random.uniform() - 35.0);
    x[0] = 0.0;
    x[1] = -0.0;
    x[2] = 1e38;
    x[3] = -1e-40;
    return from_doubles(x, {n}, dtype);
}

class Extrapolate : public EachType {};
UIPE_EACH_FLOAT_TYPE(Extrapolate);

TEST_P(Extrapolate, AlphaZeroIsTheUnlearnedModelAndMinusOneTheInitialOneBitForBit) {
    for (int repeat = 0; repeat < 5; ++repeat) {
        const Tensor u = wild(1001, GetParam());
        const Tensor z = wild(1001, GetParam());
        const Tensor y = poisoned({1001}, GetParam());
        // Zeros of one side against either sign of the other.
        fill(z.rows(0, 2), repeat % 2 == 0 ? -2.0 : 2.0);
        extrapolate(y, u, z, 0.0);
        EXPECT_TRUE(same_bits(y, u));
        extrapolate(y, z, u, -1.0);
        EXPECT_TRUE(same_bits(y, u));
    }
}

TEST_P(Extrapolate, IsTheFormulaInF64RoundedOnceForEveryMixOfTypes) {
    for (const DType u_type : float_types)
        for (const DType z_type : float_types)
            for (const double alpha : {0.1, 1.0, 7.5, -0.5}) {
                const Tensor u = normal({301}, u_type);
                const Tensor z = normal({301}, z_type);
                const Tensor y = poisoned({301}, GetParam());
                extrapolate(y, u, z, alpha);
                const auto vu = values(u);
                const auto vz = values(z);
                const auto got = values(y);
                for (std::size_t i = 0; i < vu.size(); ++i) {
                    const double want = vu[i] + alpha * (vu[i] - vz[i]);
                    const double terms = std::abs((1.0 + alpha) * vu[i]) + std::abs(alpha * vz[i]);
                    // One rounding to the type (bf16: perhaps a second on the way, to f32), a few of f64.
                    const double once = unit(GetParam()) + (GetParam() == DType::bf16 ? 0x1p-24 : 0.0);
                    ASSERT_LE(std::abs(got[i] - want), once * std::abs(want) + 8 * 0x1p-53 * terms);
                }
            }
}

}  // namespace
}  // namespace uipe::tensor::test
