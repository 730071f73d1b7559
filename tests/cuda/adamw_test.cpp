#include "tensor/master.h"
#include "tests/cuda/cuda_test.h"

namespace uipe::tensor::test {
namespace {

class CudaAdamW : public CudaFloats {
protected:
    /// One run's state, on the device and in f64.
    struct State {
        Tensor w, rest, m, v, grad;
        Tensor masters() const { return masters_of(w, rest).to(Device{}); }
    };

    /// A random state over n elements, here, for weights of the test's type.
    static State random(std::int64_t n) {
        State s;
        const Tensor masters = normal({n}, DType::f32);
        s.w = masters.to(GetParam());
        if (GetParam() == DType::bf16) s.rest = rest_of(masters, s.w);
        s.m = normal({n}, DType::f32, 0.1);
        s.v = normal({n}, DType::f32, 0.1);
        mul(s.v, s.v, s.v);
        s.grad = normal({n}, DType::f32);
        return s;
    }
    State there(const State& s) const { return {on(s.w), on(s.rest), on(s.m), on(s.v), on(s.grad)}; }
    static State doubles(const State& s) { return {wide(s.masters()), {}, wide(s.m), wide(s.v), wide(s.grad)}; }
    static void step(const State& s, const AdamWStep& how) { adamw(s.w, s.rest, s.m, s.v, s.grad, how); }
    static State rows(const State& s, std::int64_t begin, std::int64_t end) {
        const auto part = [=](const Tensor& t) { return t.defined() ? t.rows(begin, end) : t; };
        return {part(s.w), part(s.rest), part(s.m), part(s.v), part(s.grad)};
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
                const State want = doubles(start);
                AdamWStep how = plain;
                how.max_norm = 1.0;
                if (squares >= 0.0) how.squares = Tensor::full({1}, DType::f64, squares);
                step(want, how);
                how.squares = on(how.squares);
                step(got, how);
                // The largest step of a weight is of size lr sqrt(1 / (1 - beta2)), a factor f32 knows to 1e-6.
                expect_elements(got.m, want.m, 0.1, 1e-6);
                expect_elements(got.v, want.v, 0.01, 1e-6);
                expect_elements(got.masters(), want.w, 1.0, 1e-6);
                EXPECT_TRUE(same_bits(got.w.to(Device{}), got.masters().to(GetParam())));
            }
}

TEST_P(CudaAdamW, AGradientThatIsNotFiniteChangesNothing) {
    for (const double squares : {std::numeric_limits<double>::infinity(), std::nan("")})
        for (const double max_norm : {0.0, 1.0}) {
            const State start = random(9);
            const State got = there(start);
            step(got, {.squares = on(Tensor::full({1}, DType::f64, squares)), .max_norm = max_norm});
            EXPECT_TRUE(same_bits(got.w.to(Device{}), start.w));
            EXPECT_TRUE(same_bits(got.masters(), start.masters()));
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
                    AdamWStep how{.lr = 1e-3, .weight_decay = 0.1, .step = s, .max_norm = 1.0};
                    how.seed = seed();
                    how.stream = 17;
                    how.first = 1000;
                    how.squares = Tensor::full({1}, DType::f64, squares);
                    step(here, how);
                    how.squares = on(how.squares);
                    step(device, how);
                }
                EXPECT_TRUE(same_bits(device.w.to(Device{}), here.w));
                EXPECT_TRUE(same_bits(device.masters(), here.masters()));
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
    AdamWStep how{.seed = seed()};
    step(whole, how);
    for (const auto& [begin, end] : std::vector<std::pair<std::int64_t, std::int64_t>>{{0, 64}, {64, 77}, {77, 1031}}) {
        how.first = begin;
        step(rows(cut, begin, end), how);
    }
    EXPECT_TRUE(same_bits(cut.m.to(Device{}), whole.m.to(Device{})));
    EXPECT_TRUE(same_bits(cut.v.to(Device{}), whole.v.to(Device{})));
    EXPECT_TRUE(same_bits(cut.masters(), whole.masters()));
}

TEST_P(CudaAdamW, WeightsThatAreNotAlignedToAVector) {
    const State start = random(21);
    const State all = there(start);
    const State want = doubles(rows(start, 1, 20));
    step(rows(all, 1, 20), {});
    step(want, {});
    expect_elements(rows(all, 1, 20).masters(), want.w, 1.0, 1e-6);
    for (const std::int64_t end : {0, 20})
        EXPECT_TRUE(same_bits(rows(all, end, end + 1).masters(), rows(start, end, end + 1).masters()));
}

}  // namespace
}  // namespace uipe::tensor::test
