#include "tests/cuda/cuda_test.h"

namespace uipe::tensor::test {
namespace {

class CudaAdamW : public CudaFloats {
protected:
    /// One run's state, on the device and in f64.
    struct State {
        Tensor param, master, m, v, grad;
    };

    /// A random state over n elements, here, for weights of the test's type.
    static State random(std::int64_t n) {
        State s;
        s.master = normal({n}, DType::f32);
        s.m = normal({n}, DType::f32, 0.1);
        s.v = normal({n}, DType::f32, 0.1);
        mul(s.v, s.v, s.v);
        s.grad = normal({n}, DType::f32);
        s.param = GetParam() == DType::f32 ? s.master : poisoned({n}, GetParam());
        return s;
    }
    State there(const State& s) const {
        const Tensor master = on(s.master);
        return {GetParam() == DType::f32 ? master : on(s.param), master, on(s.m), on(s.v), on(s.grad)};
    }
};
UIPE_CUDA_FLOATS(CudaAdamW);

TEST_P(CudaAdamW, StepsAreThoseOfTheCpuInF64) {
    const std::vector<AdamWStep> steps{{.lr = 1e-3, .step = 1},
                                       {.lr = 1e-5, .weight_decay = 0.01, .step = 7},
                                       {.lr = 0.5, .beta1 = 0.0, .beta2 = 0.5, .eps = 0.1, .step = 2},
                                       {.lr = 1e-2, .beta2 = 0.95, .weight_decay = 0.1, .step = 100000}};
    for (const std::int64_t n : {1, 3, 4, 1031, 4096})
        for (const AdamWStep& plain : steps)
            for (const double squares : {-1.0, 0.01, 400.0}) {  // none; below the bound, and above
                SCOPED_TRACE(cat("n ", n, " step ", plain.step, " squares ", squares));
                const State start = random(n);
                const State got = there(start);
                const State want{{}, wide(start.master), wide(start.m), wide(start.v), wide(start.grad)};
                AdamWStep step = plain;
                step.max_norm = 1.0;
                if (squares >= 0.0) step.squares = Tensor::full({1}, DType::f64, squares);
                adamw(want.master, want.master, want.m, want.v, want.grad, step);
                step.squares = on(step.squares);
                adamw(got.param, got.master, got.m, got.v, got.grad, step);
                // The largest step of a weight is of size lr sqrt(1 / (1 - beta2)), a factor f32 knows to 1e-6.
                expect_elements(got.m, want.m, 0.1, 1e-6);
                expect_elements(got.v, want.v, 0.01, 1e-6);
                expect_elements(got.master, want.master, 1.0, 1e-6);
                EXPECT_TRUE(same_bits(got.param.to(Device{}), got.master.to(Device{}).to(GetParam())));
            }
}

TEST_P(CudaAdamW, AGradientThatIsNotFiniteChangesNothing) {
    for (const double squares : {std::numeric_limits<double>::infinity(), std::nan("")})
        for (const double max_norm : {0.0, 1.0}) {
            const State start = random(9);
            const State got = there(start);
            adamw(got.param, got.master, got.m, got.v, got.grad,
                  {.squares = on(Tensor::full({1}, DType::f64, squares)), .max_norm = max_norm});
            EXPECT_TRUE(same_bits(got.param.to(Device{}), start.param));
            EXPECT_TRUE(same_bits(got.master.to(Device{}), start.master));
            EXPECT_TRUE(same_bits(got.m.to(Device{}), start.m));
            EXPECT_TRUE(same_bits(got.v.to(Device{}), start.v));
        }
}

TEST_P(CudaAdamW, HasTheBitsOfTheCpu) {
    for (const DType moments : {DType::f32, DType::bf16})
        for (const std::int64_t n : {1, 3, 4, 1031, 4096})
            for (const double squares : {0.01, 400.0}) {
                SCOPED_TRACE(cat(name_of(moments), " moments, n ", n, " squares ", squares));
                State here = random(n);
                here.m = here.m.to(moments);
                here.v = here.v.to(moments);
                const State device = there(here);
                for (std::int64_t s = 1; s <= 3; ++s) {
                    AdamWStep step{.lr = 1e-3, .weight_decay = 0.1, .step = s, .max_norm = 1.0};
                    step.seed = seed();
                    step.stream = 17;
                    step.first = 1000;
                    step.squares = Tensor::full({1}, DType::f64, squares);
                    adamw(here.param, here.master, here.m, here.v, here.grad, step);
                    step.squares = on(step.squares);
                    adamw(device.param, device.master, device.m, device.v, device.grad, step);
                }
                EXPECT_TRUE(same_bits(device.param.to(Device{}), here.param));
                EXPECT_TRUE(same_bits(device.master.to(Device{}), here.master));
                EXPECT_TRUE(same_bits(device.m.to(Device{}), here.m));
                EXPECT_TRUE(same_bits(device.v.to(Device{}), here.v));
            }
}

TEST_P(CudaAdamW, MomentsOfBf16DoNotDependOnHowAParameterIsCut) {
    State start = random(1031);
    start.m = start.m.to(DType::bf16);
    start.v = start.v.to(DType::bf16);
    const State whole = there(start);
    const State cut = there(start);
    AdamWStep step{.seed = seed()};
    adamw(whole.param, whole.master, whole.m, whole.v, whole.grad, step);
    for (const auto& [begin, end] : std::vector<std::pair<std::int64_t, std::int64_t>>{{0, 64}, {64, 77}, {77, 1031}}) {
        const auto part = [b = begin, e = end](const Tensor& t) { return t.rows(b, e); };
        step.first = begin;
        adamw(part(cut.param), part(cut.master), part(cut.m), part(cut.v), part(cut.grad), step);
    }
    EXPECT_TRUE(same_bits(cut.m.to(Device{}), whole.m.to(Device{})));
    EXPECT_TRUE(same_bits(cut.v.to(Device{}), whole.v.to(Device{})));
    EXPECT_TRUE(same_bits(cut.master.to(Device{}), whole.master.to(Device{})));
}

TEST_P(CudaAdamW, WeightsThatAreNotAlignedToAVector) {
    const State start = random(21);
    const State all = there(start);
    const auto part = [](const Tensor& t) { return t.rows(1, 20); };
    const State want{{}, wide(part(start.master)), wide(part(start.m)), wide(part(start.v)), wide(part(start.grad))};
    adamw(part(all.param), part(all.master), part(all.m), part(all.v), part(all.grad), {});
    adamw(want.master, want.master, want.m, want.v, want.grad, {});
    expect_elements(part(all.master), want.master, 1.0, 1e-6);
    EXPECT_TRUE(same_bits(all.master.rows(0, 1).to(Device{}), start.master.rows(0, 1)));
    EXPECT_TRUE(same_bits(all.master.rows(20, 21).to(Device{}), start.master.rows(20, 21)));
}

}  // namespace
}  // namespace uipe::tensor::test
