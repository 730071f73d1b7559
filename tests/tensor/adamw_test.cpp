#include "tests/tensor/reference.h"

namespace uipe::tensor::test {
namespace {

/// The state of one run of AdamW over n elements whose weights are of `dtype`.
struct State {
    Tensor master, m, v, grad, param;

    State(std::int64_t n, DType dtype) {
        const DType acc = accumulator_of(dtype);
        master = normal({n}, acc);
        m = normal({n}, acc, 0.1);
        v = normal({n}, acc, 0.1);
        mul(v, v, v);  // second moments are not negative
        grad = normal({n}, acc);
        param = dtype == acc ? master : poisoned({n}, dtype);
    }
};

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
            const auto p = values(state.master);
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
            adamw(state.param, state.master, state.m, state.v, state.grad, s);
            expect_near(state.m, want_m, 5, "m");        // clip, factor, product, product, sum
            expect_near(state.v, want_v, 7, "v");        // the same, and the clipped gradient twice
            expect_near(state.master, want_p, 16, "p");  // m, half of v's, root, four products and quotients, sums
            EXPECT_TRUE(same_bits(state.param, state.master.to(GetParam())));
        }
}

/// The first moment after a step from nothing with gradient 1 and beta1 = 0: the factor of the gradient.
double clip_of(double squares, double max_norm) {
    const Tensor p = Tensor::full({1}, DType::f64, 1.0);
    const Tensor m = Tensor::zeros({1}, DType::f64);
    const Tensor v = Tensor::zeros({1}, DType::f64);
    adamw(p, p, m, v, Tensor::full({1}, DType::f64, 1.0),
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
            const std::vector<Tensor> all{state.param, state.master, state.m, state.v};
            std::vector<Tensor> before;
            for (const Tensor& t : all) before.push_back(t.clone());
            adamw(state.param, state.master, state.m, state.v, state.grad,
                  {.squares = Tensor::full({1}, DType::f64, squares), .max_norm = max_norm});
            for (std::size_t i = 0; i < all.size(); ++i) EXPECT_TRUE(same_bits(all[i], before[i])) << i;
        }
}

TEST(AdamWMasters, KeepStepsThatAreSmallerThanTheLastBitOfABf16Weight) {
    const Tensor master = Tensor::full({4}, DType::f32, 1.0);
    const Tensor param = master.to(DType::bf16);
    const Tensor m = Tensor::zeros({4}, DType::f32);
    const Tensor v = Tensor::zeros({4}, DType::f32);
    const Tensor grad = Tensor::full({4}, DType::f32, 1.0);
    for (std::int64_t step = 1; step <= 300; ++step) adamw(param, master, m, v, grad, {.lr = 1e-5, .step = step});
    for (const double p : values(master)) EXPECT_NEAR(p, 1.0 - 300e-5, 300 * 0x1p-24 * 2);
    for (const double p : values(param)) EXPECT_EQ(p, 1.0 - 0x1p-8);  // the nearest bf16 of 0.997
}

TEST_P(AdamW, GivesTheSameBitsForAnyThreads) {
    const State start(30011, GetParam());
    expect_same_bits_for_any_threads([&] {
        const Tensor master = start.master.clone();
        const Tensor m = start.m.clone();
        const Tensor v = start.v.clone();
        const Tensor param = start.param.raw() == start.master.raw() ? master : start.param.clone();
        adamw(param, master, m, v, start.grad, {.lr = 1e-3, .weight_decay = 0.1, .step = 3});
        return std::vector<Tensor>{param, master, m, v};
    });
}

TEST(AdamWChecks, RefusesStatesOfAnotherTypeOrShape) {
    const Tensor p = Tensor::zeros({3}, DType::f32);
    const Tensor other = Tensor::zeros({4}, DType::f32);
    const Tensor half = Tensor::zeros({3}, DType::bf16);
    EXPECT_THROW(adamw(p, p, other, p, p, {}), Error);
    EXPECT_THROW(adamw(p, p, p, p, half, {}), Error);
    EXPECT_THROW(adamw(half, half, half, half, half, {}), Error);  // a bf16 master would not move
}

}  // namespace
}  // namespace uipe::tensor::test
