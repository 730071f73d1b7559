#include "tensor/master.h"
#include "tests/tensor/reference.h"

namespace uipe::tensor::test {
namespace {

/// The state of one run of AdamW over n elements whose weights are of `dtype`.
struct State {
    Tensor w, rest, m, v, grad;

    State(std::int64_t n, DType dtype) {
        const DType acc = accumulator_of(dtype);
        const Tensor masters = normal({n}, acc);
        w = masters.to(dtype);
        if (dtype == DType::bf16) rest = rest_of(masters, w);
        m = normal({n}, acc, 0.1);
        v = normal({n}, acc, 0.1);
        mul(v, v, v);  // second moments are not negative
        grad = normal({n}, acc);
    }
    Tensor masters() const { return masters_of(w, rest); }
    std::vector<Tensor> all() const { return {w, masters(), m, v}; }
};

State copy_of(const State& s) {
    State out = s;
    for (Tensor* t : {&out.w, &out.rest, &out.m, &out.v})
        if (t->defined()) *t = t->clone();
    return out;
}

void step(const State& s, const AdamWStep& how) { adamw(s.w, s.rest, s.m, s.v, s.grad, how); }

class AdamW : public EachType {};
UIPE_EACH_FLOAT_TYPE(AdamW);

TEST_P(AdamW, AStepIsTheFormulaForEveryRateMomentAndStepNumber) {
    const std::vector<AdamWStep> steps{{.lr = 1e-3, .step = 1},
                                       {.lr = 1e-5, .weight_decay = 0.01, .step = 7},
                                       {.lr = 0.5, .beta1 = 0.0, .beta2 = 0.5, .eps = 0.1, .step = 2},
                                       {.lr = 1e-2, .beta1 = 0.9, .beta2 = 0.95, .weight_decay = 0.1, .step = 100000}};
    for (const std::int64_t n : {1, 3, 17, 20001})
        for (const AdamWStep& s : steps) {
            SCOPED_TRACE(cat("n ", n, " lr ", s.lr, " step ", s.step));
            State state(n, GetParam());
            const auto p = values(state.masters());
            const auto m = values(state.m);
            const auto v = values(state.v);
            const auto g = values(state.grad);
            std::vector<Want> want_p(p.size());
            std::vector<Want> want_m(p.size());
            std::vector<Want> want_v(p.size());
            const auto t = static_cast<double>(s.step);
            for (std::size_t i = 0; i < p.size(); ++i) {
                want_m[i].add(s.beta1 * m[i]);
                want_m[i].add((1.0 - s.beta1) * g[i]);
                want_v[i].add(s.beta2 * v[i]);
                want_v[i].add((1.0 - s.beta2) * g[i] * g[i]);
                const double size = std::sqrt(want_v[i].value / (1.0 - std::pow(s.beta2, t))) + s.eps;
                const double scale = s.lr / (1.0 - std::pow(s.beta1, t)) / size;
                want_p[i].add(p[i] * (1.0 - s.lr * s.weight_decay));
                want_p[i].value -= scale * want_m[i].value;
                want_p[i].terms += scale * want_m[i].terms;
            }
            adamw(state.w, state.rest, state.m, state.v, state.grad, s);
            expect_near(state.m, want_m, 5, "m");           // clip, factor, product, product, sum
            expect_near(state.v, want_v, 7, "v");           // the same, and the clipped gradient twice
            expect_near(state.masters(), want_p, 16, "p");  // m, half of v's, root, four products and quotients, sums
            EXPECT_TRUE(same_bits(state.w, state.masters().to(GetParam())));
        }
}

/// The first moment after a step from nothing with gradient 1 and beta1 = 0: the factor of the gradient.
double clip_of(double squares, double max_norm) {
    const Tensor p = Tensor::full({1}, DType::f64, 1.0);
    const Tensor m = Tensor::zeros({1}, DType::f64);
    const Tensor v = Tensor::zeros({1}, DType::f64);
    adamw(p, {}, m, v, Tensor::full({1}, DType::f64, 1.0),
          {.beta1 = 0.0, .squares = Tensor::full({1}, DType::f64, squares), .max_norm = max_norm});
    return m.item();
}

TEST(AdamWClipping, BringsTheNormDownToItsBound) {
    EXPECT_EQ(clip_of(0.25, 1.0), 1.0);
    EXPECT_EQ(clip_of(0.0, 1.0), 1.0);
    EXPECT_DOUBLE_EQ(clip_of(16.0, 1.0), 1.0 / (4.0 + 1e-6));
    EXPECT_DOUBLE_EQ(clip_of(1.0, 1.0), 1.0 / (1.0 + 1e-6)) << "as PyTorch, which clips a norm of exactly the bound";
    EXPECT_EQ(clip_of(1e18, 0.0), 1.0) << "0 switches clipping off";
}

TEST_P(AdamW, AGradientThatIsNotFiniteChangesNothing) {
    for (const double squares : {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()})
        for (const double max_norm : {0.0, 1.0}) {
            const State state(5, GetParam());
            std::vector<Tensor> before;
            for (const Tensor& t : state.all()) before.push_back(t.clone());
            adamw(state.w, state.rest, state.m, state.v, state.grad,
                  {.squares = Tensor::full({1}, DType::f64, squares), .max_norm = max_norm});
            for (std::size_t i = 0; i < before.size(); ++i) EXPECT_TRUE(same_bits(state.all()[i], before[i])) << i;
        }
}

TEST(AdamWMasters, KeepStepsThatAreSmallerThanTheLastBitOfABf16Weight) {
    const Tensor w = Tensor::full({4}, DType::bf16, 1.0);
    const Tensor rest = Tensor::zeros({4}, DType::bf16);
    const Tensor m = Tensor::zeros({4}, DType::f32);
    const Tensor v = Tensor::zeros({4}, DType::f32);
    const Tensor grad = Tensor::full({4}, DType::f32, 1.0);
    for (std::int64_t step = 1; step <= 300; ++step) adamw(w, rest, m, v, grad, {.lr = 1e-5, .step = step});
    for (const double p : values(masters_of(w, rest))) EXPECT_NEAR(p, 1.0 - 300e-5, 300 * 0x1p-24 * 2);
    for (const double p : values(w)) EXPECT_EQ(p, 1.0 - 0x1p-8);  // the nearest bf16 of 0.997
}

TEST_P(AdamW, GivesTheSameBitsForAnyThreads) {
    const State start(30011, GetParam());
    expect_same_bits_for_any_threads([&] {
        const State s = copy_of(start);
        step(s, {.lr = 1e-3, .weight_decay = 0.1, .step = 3});
        return s.all();
    });
}

// --- Moments of bf16
// --------------------------------------------------------------------------------------------------

class AdamWMoments : public ::testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(Types, AdamWMoments, ::testing::Values(DType::f32, DType::bf16), type_name);

/// A state whose moments are bf16.
State narrow_state(std::int64_t n, DType dtype) {
    State s(n, dtype);
    s.m = s.m.to(DType::bf16);
    s.v = s.v.to(DType::bf16);
    return s;
}

/// Whether y is x or the bf16 before or behind it: never further than rounding goes.
void expect_neighbours(const Tensor& y, const Tensor& x) {
    const auto narrow = y.to_vector<bf16>();
    const auto wide = x.to_vector<float>();
    for (std::size_t i = 0; i < wide.size(); ++i) {
        const std::uint32_t below = std::bit_cast<std::uint32_t>(wide[i]) >> 16;
        const bool exact = std::bit_cast<std::uint32_t>(wide[i]) << 16 == 0;
        EXPECT_TRUE(narrow[i].bits == below || (!exact && narrow[i].bits == below + 1)) << wide[i];
    }
}

TEST_P(AdamWMoments, OfBf16AreThoseOfF32RoundedAndTheStepIsThatOfF32) {
    for (const std::int64_t n : {1, 3, 17, 20001}) {
        const State narrow = narrow_state(n, GetParam());
        State wide = copy_of(narrow);
        wide.m = narrow.m.to(DType::f32);
        wide.v = narrow.v.to(DType::f32);
        for (const State* s : {&std::as_const(narrow), &std::as_const(wide)})
            step(*s, {.weight_decay = 0.1, .step = 3, .seed = 5, .stream = 6});
        EXPECT_TRUE(same_bits(narrow.masters(), wide.masters()));
        EXPECT_TRUE(same_bits(narrow.w, wide.w));
        expect_neighbours(narrow.m, wide.m);
        expect_neighbours(narrow.v, wide.v);
    }
}

TEST_P(AdamWMoments, AreRoundedBySeedStreamStepAndElementAlone) {
    const State start = narrow_state(1000, GetParam());
    const AdamWStep how{.step = 3, .seed = 5, .stream = 6};
    const State whole = copy_of(start);
    step(whole, how);
    const State parts = copy_of(start);
    for (const auto& [begin, end] : std::vector<std::pair<std::int64_t, std::int64_t>>{{0, 1}, {1, 338}, {338, 1000}}) {
        AdamWStep part = how;
        part.first = begin;
        const auto rows = [&, b = begin, e = end](const Tensor& t) { return t.defined() ? t.rows(b, e) : t; };
        adamw(rows(parts.w), rows(parts.rest), rows(parts.m), rows(parts.v), rows(parts.grad), part);
    }
    EXPECT_TRUE(same_bits(parts.m, whole.m));
    EXPECT_TRUE(same_bits(parts.v, whole.v));
    EXPECT_TRUE(same_bits(parts.masters(), whole.masters()));
    for (const AdamWStep& other :
         {AdamWStep{.step = 3, .seed = 4, .stream = 6}, AdamWStep{.step = 3, .seed = 5, .stream = 7},
          AdamWStep{.step = 3, .seed = 5, .stream = 6, .first = 1}}) {
        const State s = copy_of(start);
        step(s, other);
        EXPECT_FALSE(same_bits(s.m, whole.m));
        EXPECT_FALSE(same_bits(s.v, whole.v));
    }
}

TEST_P(AdamWMoments, HaveTheSameBitsForAnyThreads) {
    const State start = narrow_state(70011, GetParam());
    expect_same_bits_for_any_threads([&] {
        const State s = copy_of(start);
        step(s, {.step = 3, .seed = 5, .stream = 6});
        return s.all();
    });
}

TEST_P(AdamWMoments, StayWhereAGradientIsNotFinite) {
    const State start = narrow_state(9, GetParam());
    const State s = copy_of(start);
    step(s, {.squares = Tensor::full({1}, DType::f64, std::numeric_limits<double>::infinity())});
    EXPECT_TRUE(same_bits(s.m, start.m));
    EXPECT_TRUE(same_bits(s.v, start.v));
}

TEST(AdamWChecks, RefusesStatesOfAnotherTypeOrShape) {
    const Tensor p = Tensor::zeros({3}, DType::f32);
    const Tensor other = Tensor::zeros({4}, DType::f32);
    const Tensor half = Tensor::zeros({3}, DType::bf16);
    EXPECT_THROW(adamw(p, {}, other, p, p, {}), Error);
    EXPECT_THROW(adamw(p, {}, p, p, half, {}), Error);
    EXPECT_THROW(adamw(half, half, half, half, half, {}), Error);  // a gradient of bf16
    EXPECT_THROW(adamw(half, {}, p, p, p, {}), Error);             // bf16 weights alone would not move
    EXPECT_THROW(adamw(p, half, p, p, p, {}), Error);              // what f32 has no use for
    EXPECT_THROW(adamw(p, {}, half, p, p, {}), Error);             // one moment
    const Tensor wide = Tensor::zeros({3}, DType::f64);
    EXPECT_THROW(adamw(wide, {}, half, half, wide, {}), Error);
    EXPECT_THROW(adamw(p, {}, half, half, p, {.first = (std::int64_t{1} << 32) - 2}), Error);
    EXPECT_THROW(adamw(p, {}, half, half, p, {.first = -1}), Error);
}

}  // namespace
}  // namespace uipe::tensor::test
