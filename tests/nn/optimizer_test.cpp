#include "nn/optimizer.h"

#include <gtest/gtest.h>

#include "tests/autograd/inputs.h"

namespace uipe::nn {
namespace {

using tensor::DType;
using test::apart;
using test::normal;
using test::same_bits;

Parameter parameter(const std::string& name, Tensor value) { return {name, Variable::parameter(std::move(value))}; }

/// Puts `grad` where a backward would.
void set_gradient(const Parameter& p, const Tensor& grad) {
    p.variable.clear_grad();
    autograd::backward(p.variable, grad);
}

// --- AdamW -----------------------------------------------------------------------------------------------------------

/// Loshchilov & Hutter 2019, algorithm 2, for one weight in f64: no code shared with the program.
struct Reference {
    double w, m = 0.0, v = 0.0;
    int t = 0;

    void step(double g, double lr, double decay, double beta1 = 0.9, double beta2 = 0.999, double eps = 1e-8) {
        ++t;
        m = beta1 * m + (1.0 - beta1) * g;
        v = beta2 * v + (1.0 - beta2) * g * g;
        const double m_hat = m / (1.0 - std::pow(beta1, t));
        const double v_hat = v / (1.0 - std::pow(beta2, t));
        w = w - lr * (m_hat / (std::sqrt(v_hat) + eps) + decay * w);
    }
};

TEST(AdamW, ThreeStepsByHand) {
    // beta1 = beta2 = 1/2, eps = 0, decay 1/2, gradients 1, 1, -1, rate 1/4:
    // 1. m = 1/2, v = 1/2; hats 1, 1;            w = 2 - 1/4 (1 + 1)         = 3/2
    // 2. m = 3/4, v = 3/4; hats 1, 1;            w = 3/2 - 1/4 (1 + 3/4)     = 17/16
    // 3. m = -1/8, v = 7/8; hats -1/7, 1;        w = 17/16 - 1/4 (-1/7 + 17/32) = 17/16 - 87/896
    const Parameter p = parameter("w", Tensor::from(std::vector<double>{2.0}, {1, 1}));
    AdamW optimizer({p}, {.beta1 = 0.5, .beta2 = 0.5, .eps = 0.0, .weight_decay = 0.5});
    const double expected[] = {1.5, 1.0625, 1.0625 - 87.0 / 896.0};
    const double gradients[] = {1.0, 1.0, -1.0};
    for (int i = 0; i < 3; ++i) {
        set_gradient(p, Tensor::full({1, 1}, DType::f64, gradients[i]));
        optimizer.step(0.25);
        EXPECT_NEAR(p.variable.value().item(), expected[i], 1e-15) << "step " << i + 1;
        EXPECT_FALSE(p.variable.grad().defined()) << "step() lets go of the gradient";
    }
    EXPECT_EQ(optimizer.steps(), 3);
}

void expect_as_reference(DType dtype, double tolerance) {
    const Parameter p = parameter("w", normal({3, 5}, 1, 1.0, dtype));
    AdamW optimizer({p}, {.weight_decay = 0.1});
    std::vector<Reference> reference;
    for (const double w : test::doubles(p.variable.value())) reference.push_back({w});
    for (std::uint64_t i = 0; i < 50; ++i) {
        const Tensor grad = normal({3, 5}, 100 + i, 1e-3, dtype);
        const double lr = 1e-2 / static_cast<double>(i + 1);
        set_gradient(p, grad);
        optimizer.step(lr);
        for (std::size_t j = 0; j < reference.size(); ++j) reference[j].step(test::doubles(grad)[j], lr, 0.1);
    }
    std::vector<double> expected;
    for (const Reference& r : reference) expected.push_back(r.w);
    EXPECT_LE(apart(p.variable.value(), Tensor::from(expected, {3, 5})), tolerance);
}

TEST(AdamW, EqualsAnIndependentLoop) {
    expect_as_reference(DType::f64, 1e-14);
    expect_as_reference(DType::f32, 50 * 6e-8);  // one rounding of w a step
}

TEST(AdamW, DecaysVectorsOnlyWhenAsked) {
    for (const bool vectors : {false, true}) {
        const Parameter norm = parameter("norm", Tensor::full({4}, DType::f64, 1.0));
        const Parameter matrix = parameter("matrix", Tensor::full({2, 2}, DType::f64, 1.0));
        AdamW optimizer({norm, matrix}, {.weight_decay = 0.1, .decay_vectors = vectors});
        for (const Parameter& p : {norm, matrix})
            set_gradient(p, Tensor::zeros(p.variable.value().shape(), DType::f64));
        optimizer.step(0.5);
        EXPECT_EQ(norm.variable.value().data<double>()[0], vectors ? 0.95 : 1.0);
        EXPECT_EQ(matrix.variable.value().data<double>()[0], 0.95);
    }
}

TEST(AdamW, LeavesAParameterWithoutGradientAlone) {
    const Parameter used = parameter("used", normal({2, 2}, 1));
    const Parameter idle = parameter("idle", normal({2, 2}, 2));
    const Tensor before = idle.variable.value().clone();
    AdamW optimizer({used, idle}, {.weight_decay = 0.1});
    set_gradient(used, normal({2, 2}, 3));
    optimizer.step(0.1);
    EXPECT_TRUE(same_bits(idle.variable.value(), before));
}

TEST(AdamW, TheMasterOfABf16WeightMovesWhereTheWeightCannot) {
    const Parameter p = parameter("w", Tensor::full({2, 2}, DType::bf16, 1.0));
    AdamW optimizer({p}, {.weight_decay = 0.0});
    ASSERT_EQ(optimizer.master("w").dtype(), DType::f32);
    for (int i = 1; i <= 100; ++i) {
        set_gradient(p, Tensor::full({2, 2}, DType::f32, 0.5));
        ASSERT_EQ(p.variable.grad().dtype(), DType::f32);
        optimizer.step(1e-5);
        // A constant gradient moves each step by lr. f32 rounds to 6e-8 near 1.
        EXPECT_NEAR(test::doubles(optimizer.master("w"))[0], 1.0 - 1e-5 * i, 6e-8 * i) << "step " << i;
        // bf16 below 1 has steps of 2^-8: half of one, 0.00195, is 195 steps of lr away.
        EXPECT_EQ(test::doubles(p.variable.value())[0], 1.0) << "step " << i;
    }
    for (int i = 0; i < 200; ++i) {
        set_gradient(p, Tensor::full({2, 2}, DType::f32, 0.5));
        optimizer.step(1e-5);
    }
    EXPECT_EQ(test::doubles(p.variable.value())[0], 1.0 - 1.0 / 256.0) << "in the end the weight follows its master";
}

TEST(AdamW, AnF32WeightIsItsOwnMaster) {
    const Parameter p = parameter("w", normal({2, 2}, 1, 1.0, DType::f32));
    const AdamW optimizer({p}, {});
    EXPECT_EQ(optimizer.master("w").raw(), p.variable.value().raw());
}

// --- Moments of bf16 -------------------------------------------------------------------------------------------------

TEST(Moments, OfBf16ReachTheirMeanWhereRoundingToNearestStandsStill) {
    // A constant gradient of 1: v is 1 - 0.999^t in the mean.
    constexpr int steps = 3000;
    constexpr std::int64_t n = 4096;
    const Parameter p = parameter("w", Tensor::zeros({n}, DType::f32));
    AdamW optimizer({p}, {.moments = DType::bf16, .seed = 1});
    tensor::bf16 nearest = 0.0F;
    for (int i = 0; i < steps; ++i) {
        set_gradient(p, Tensor::full({n}, DType::f32, 1.0));
        optimizer.step(0.0);
        nearest = 0.999F * nearest + 0.001F;
    }
    double mean = 0.0;
    for (const double v : test::doubles(optimizer.state().at("v.w"))) mean += v / static_cast<double>(n);
    // A rounding of numbers below 1 has a variance of 2^-16 / 4 at most, and counts 0.999^2 as much a step later: at
    // most 500 such in the end, and a mean of n has an n-th. Six standard deviations:
    const double bound = 6.0 * std::sqrt(500.0 * 0x1p-18 / static_cast<double>(n));
    const double expected = 1.0 - std::pow(0.999, steps);
    EXPECT_NEAR(mean, expected, bound);
    EXPECT_EQ(float{nearest}, 0.25F) << "where a step is less than half of the last bit";
    EXPECT_GT(std::abs(0.25 - expected), bound) << "so this test would see rounding to nearest";
}

TEST(Moments, OfBf16TakeHalfTheMemory) {
    for (const DType weights : {DType::f32, DType::bf16})
        for (const DType moments : {DType::f32, DType::bf16}) {
            const Parameter p = parameter("w", Tensor::zeros({100, 3}, weights));
            const std::map<std::string, Tensor> state = AdamW({p}, {.moments = moments}).state();
            const std::size_t rest = weights == DType::bf16 ? state.at("rest.w").nbytes() : 0;
            EXPECT_EQ(state.at("weight.w").nbytes() + rest, 4U * 300U);
            EXPECT_EQ(state.at("m.w").nbytes() + state.at("v.w").nbytes(), (moments == DType::bf16 ? 4U : 8U) * 300U);
        }
}

TEST(Moments, OfBf16AreTheSameHoweverAParameterIsCut) {
    const Tensor start = normal({1, 100}, 1, 1.0, DType::f32);
    const Tensor grad = normal({1, 100}, 2, 1.0, DType::f32);
    const AdamWOptions options{.moments = DType::bf16, .seed = 3};
    const Parameter whole = parameter("layer.w", start.clone());
    AdamW of_whole({whole}, options);
    const auto part = [](const Tensor& t, std::int64_t begin, std::int64_t end) {
        return t.view({100}).rows(begin, end).clone().view({1, end - begin});
    };
    const Parameters parts{parameter("layer.w[0:37]", part(start, 0, 37)),
                           parameter("layer.w[37:100]", part(start, 37, 100))};
    AdamW of_parts(parts, options);
    for (int i = 0; i < 5; ++i) {
        set_gradient(whole, grad);
        set_gradient(parts[0], part(grad, 0, 37));
        set_gradient(parts[1], part(grad, 37, 100));
        of_whole.step(1e-2);
        of_parts.step(1e-2);
    }
    for (const std::string kind : {"m.", "v.", "weight."}) {
        const Tensor all = of_whole.state().at(kind + "layer.w");
        EXPECT_TRUE(same_bits(of_parts.state().at(kind + "layer.w[0:37]"), part(all, 0, 37))) << kind;
        EXPECT_TRUE(same_bits(of_parts.state().at(kind + "layer.w[37:100]"), part(all, 37, 100))) << kind;
    }
}

TEST(Moments, OfBf16AreNotForF64) {
    EXPECT_THROW(AdamW({parameter("w", normal({3}, 1))}, {.moments = DType::bf16}), InputError);
    EXPECT_EQ(AdamW({parameter("w", normal({3}, 1))}, {}).state().at("m.w").dtype(), DType::f64);
}

TEST(Offload, IsNotFromTheHost) {
    EXPECT_THROW(AdamW({parameter("w", normal({3}, 1, 1.0, DType::f32))}, {.offload = true}), InputError);
}

// --- Its state -------------------------------------------------------------------------------------------------------

struct Training {
    Parameters parameters;
    AdamW optimizer;

    explicit Training(DType dtype, std::uint64_t seed = 0, DType moments = DType::f32)
        : parameters{parameter("a", normal({3, 5}, seed + 1, 1.0, dtype)),
                     parameter("b", normal({7}, seed + 2, 1.0, dtype))},
          optimizer(parameters, {.weight_decay = 0.1, .moments = moments}) {}

    void step(std::uint64_t i) {
        for (const Parameter& p : parameters) set_gradient(p, normal(p.variable.value().shape(), 50 + i));
        optimizer.step(1e-3);
    }
};

std::map<std::string, Tensor> copy_of(const std::map<std::string, Tensor>& state) {
    std::map<std::string, Tensor> out;
    for (const auto& [name, t] : state) out[name] = t.clone();
    return out;
}

TEST(AdamW, AResumedRunEqualsTheWholeOneBitForBit) {
    for (const auto& [dtype, moments] : std::vector<std::pair<DType, DType>>{{DType::f64, DType::f32},
                                                                             {DType::f32, DType::f32},
                                                                             {DType::bf16, DType::f32},
                                                                             {DType::f32, DType::bf16},
                                                                             {DType::bf16, DType::bf16}}) {
        Training whole(dtype, 0, moments);
        for (std::uint64_t i = 0; i < 3; ++i) whole.step(i);
        const std::map<std::string, Tensor> saved = copy_of(whole.optimizer.state());
        Training resumed(dtype, 1000, moments);  // other weights, all to be replaced
        resumed.step(0);
        resumed.optimizer.load_state(saved, whole.optimizer.steps());
        EXPECT_EQ(resumed.optimizer.steps(), 3);
        for (std::size_t i = 0; i < 2; ++i)
            EXPECT_TRUE(same_bits(resumed.parameters[i].variable.value(), whole.parameters[i].variable.value()));
        for (std::uint64_t i = 3; i < 6; ++i) {
            whole.step(i);
            resumed.step(i);
        }
        for (const auto& [name, t] : whole.optimizer.state())
            EXPECT_TRUE(same_bits(resumed.optimizer.state().at(name), t)) << name << " in " << name_of(dtype);
        for (std::size_t i = 0; i < 2; ++i)
            EXPECT_TRUE(same_bits(resumed.parameters[i].variable.value(), whole.parameters[i].variable.value()));
    }
}

TEST(AdamW, StateNamesEveryTensorOnce) {
    std::vector<std::string> names;
    for (const auto& [name, t] : Training(DType::bf16).optimizer.state()) names.push_back(name);
    EXPECT_EQ(names,
              (std::vector<std::string>{"m.a", "m.b", "rest.a", "rest.b", "v.a", "v.b", "weight.a", "weight.b"}));
}

TEST(AdamW, AStateThatDoesNotFitIsRefused) {
    Training run(DType::f32);
    const std::map<std::string, Tensor> good = copy_of(run.optimizer.state());
    const auto message = [&](const std::map<std::string, Tensor>& state) -> std::string {
        try {
            run.optimizer.load_state(state, 1);
        } catch (const InputError& e) {
            return e.what();
        }
        return "accepted";
    };
    EXPECT_EQ(message(good), "accepted");
    for (const char* name : {"m.a", "weight.b", "v.b"}) {
        auto missing = good;
        missing.erase(name);
        EXPECT_NE(message(missing).find(name), std::string::npos) << message(missing);
        auto shape = good;
        shape[name] = normal({2, 2}, 1, 1.0, DType::f32);
        EXPECT_NE(message(shape).find("[2,2]"), std::string::npos) << message(shape);
        auto type = good;
        type[name] = good.at(name).to(DType::f64);
        EXPECT_NE(message(type).find(name), std::string::npos) << message(type);
    }
}

TEST(AdamW, ARefusedStateChangesNothing) {
    Training run(DType::f32);
    run.step(0);
    auto bad = copy_of(run.optimizer.state());
    const std::map<std::string, Tensor> before = copy_of(bad);
    for (auto& [name, t] : bad) tensor::fill(t, 5.0);
    bad.erase("weight.b");  // the last by name
    EXPECT_THROW(run.optimizer.load_state(bad, 9), InputError);
    for (const auto& [name, t] : run.optimizer.state()) EXPECT_TRUE(same_bits(t, before.at(name))) << name;
    EXPECT_EQ(run.optimizer.steps(), 1);
}

// --- Clipping --------------------------------------------------------------------------------------------------------

TEST(Clipping, GradSquares) {
    const Parameters p = {parameter("a", normal({2}, 1)), parameter("b", normal({1, 2}, 2, 1.0, DType::bf16)),
                          parameter("no gradient", normal({3}, 3))};
    EXPECT_EQ(grad_squares(p, {}).item(), 0.0);
    set_gradient(p[0], Tensor::from(std::vector<double>{1.0, -2.0}));
    set_gradient(p[1], Tensor::from(std::vector<double>{2.0, 4.0}, {1, 2}));
    EXPECT_DOUBLE_EQ(grad_squares(p, {}).item(), 25.0);
}

TEST(Clipping, TheWholeGradientIsBroughtDownToTheNorm) {
    const Parameters p = {parameter("a", normal({1}, 1)), parameter("b", normal({1}, 2))};
    AdamW optimizer(p, {.beta1 = 0.0, .beta2 = 0.0, .eps = 1.0});  // m is the gradient as it was used
    set_gradient(p[0], Tensor::from(std::vector<double>{3.0}));
    set_gradient(p[1], Tensor::from(std::vector<double>{4.0}));
    optimizer.step(0.0, grad_squares(p, {}), 2.0);
    EXPECT_DOUBLE_EQ(optimizer.state().at("m.a").item(), 6.0 / (5.0 + 1e-6));
    EXPECT_DOUBLE_EQ(optimizer.state().at("m.b").item(), 8.0 / (5.0 + 1e-6));
}

// --- Schedules -------------------------------------------------------------------------------------------------------

TEST(Schedules, WarmUp) {
    for (const Schedule s : {Schedule::constant, Schedule::linear, Schedule::cosine}) {
        EXPECT_EQ(schedule_factor(s, 0, 4, 20), 0.0) << "as transformers, the first step has rate 0";
        EXPECT_DOUBLE_EQ(schedule_factor(s, 1, 4, 20), 0.25);
        EXPECT_DOUBLE_EQ(schedule_factor(s, 3, 4, 20), 0.75);
        EXPECT_DOUBLE_EQ(schedule_factor(s, 4, 4, 20), 1.0);
        EXPECT_DOUBLE_EQ(schedule_factor(s, 0, 0, 20), 1.0) << "without warm-up the first step has the full rate";
        EXPECT_DOUBLE_EQ(schedule_factor(s, 1, 1, 2), 1.0);
    }
}

TEST(Schedules, Decay) {
    EXPECT_EQ(schedule_factor(Schedule::constant, 19, 4, 20), 1.0);
    // 16 steps of decay: the last has 1/16 left, and the one that never comes would have nothing.
    EXPECT_DOUBLE_EQ(schedule_factor(Schedule::linear, 12, 4, 20), 0.5);
    EXPECT_DOUBLE_EQ(schedule_factor(Schedule::linear, 19, 4, 20), 1.0 / 16.0);
    EXPECT_EQ(schedule_factor(Schedule::linear, 20, 4, 20), 0.0);
    EXPECT_DOUBLE_EQ(schedule_factor(Schedule::cosine, 12, 4, 20), 0.5);
    EXPECT_DOUBLE_EQ(schedule_factor(Schedule::cosine, 8, 4, 20), 0.5 + std::sqrt(0.125));  // (1 + cos 45°) / 2
    EXPECT_NEAR(schedule_factor(Schedule::cosine, 19, 4, 20), 0.00960735979838, 1e-14);     // (1 - cos(π/16)) / 2
    EXPECT_EQ(schedule_factor(Schedule::cosine, 20, 4, 20), 0.0);
}

TEST(Schedules, NeverOutsideZeroToOne) {
    for (const Schedule s : {Schedule::constant, Schedule::linear, Schedule::cosine})
        for (const std::int64_t warmup : {0, 1, 7, 30})  // also a warm-up longer than the run
            for (std::int64_t step = 0; step < 25; ++step) {
                const double f = schedule_factor(s, step, warmup, 20);
                EXPECT_TRUE(0.0 <= f && f <= 1.0) << f << " at " << step;
            }
}

TEST(Schedules, Names) {
    EXPECT_EQ(schedule_named("constant"), Schedule::constant);
    EXPECT_EQ(schedule_named("linear"), Schedule::linear);
    EXPECT_EQ(schedule_named("cosine"), Schedule::cosine);
    EXPECT_THROW(schedule_named("Cosine"), InputError);
}

}  // namespace
}  // namespace uipe::nn
