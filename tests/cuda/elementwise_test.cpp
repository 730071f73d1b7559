#include "tests/cuda/cuda_test.h"

namespace uipe::tensor::test {
namespace {

class CudaElementwise : public CudaFloats {};
UIPE_CUDA_FLOATS(CudaElementwise);

const std::vector<std::int64_t> sizes{0, 1, 7, 8, 255, 1031, 4096};

TEST_P(CudaElementwise, FillCopyAndConversions) {
    for (const std::int64_t n : sizes) {
        const Tensor y = on(poisoned({n}, GetParam()));
        fill(y, 1.5);
        for (const double v : values(y.to(Device{}))) ASSERT_EQ(v, 1.5);
        const Tensor x = normal({n}, GetParam());
        EXPECT_TRUE(same_bits(on(x).clone().to(Device{}), x));
        for (const DType to : {DType::f32, DType::bf16}) EXPECT_TRUE(same_bits(on(x).to(to).to(Device{}), x.to(to)));
    }
}

TEST_P(CudaElementwise, RowsThatAreNotAlignedToAVector) {
    const Tensor x = normal({5, 7}, GetParam());
    const Tensor y = on(poisoned({5, 7}, GetParam()));
    copy(y, on(x));
    copy(y.rows(1, 3), on(x).rows(2, 4));
    EXPECT_TRUE(same_bits(y.rows(0, 1).to(Device{}), x.rows(0, 1)));
    EXPECT_TRUE(same_bits(y.rows(1, 3).to(Device{}), x.rows(2, 4)));
    EXPECT_TRUE(same_bits(y.rows(3, 5).to(Device{}), x.rows(3, 5)));
}

TEST_P(CudaElementwise, Axpby) {
    for (const std::int64_t n : sizes)
        for (const DType other : {DType::f32, DType::bf16})
            for (const double b : {0.0, -0.75}) {
                const Tensor x = normal({n}, other);
                const Tensor y = output({n}, GetParam(), b != 0.0);
                const Tensor got = on(y);
                axpby(got, 1.25, on(x), b);
                const Tensor want = wide(y);
                axpby(want, 1.25, wide(x), b);
                expect_elements(got, want, 1.0);
            }
}

TEST_P(CudaElementwise, ProductsAndSums) {
    for (const std::int64_t n : sizes)
        for (const bool accumulate : {false, true}) {
            const Tensor a = normal({n}, GetParam());
            const Tensor b = normal({n}, GetParam());
            const Tensor y = output({n}, GetParam(), accumulate);
            const Tensor got = on(y);
            const Tensor want = wide(y);
            mul(got, on(a), on(b), accumulate);
            mul(want, wide(a), wide(b), accumulate);
            expect_elements(got, want, 1.0);
            add(got, on(a), on(b));
            add(want, wide(a), wide(b));
            expect_elements(got, want, 1.0);
        }
}

TEST_P(CudaElementwise, LogSigmoid) {
    for (const std::int64_t n : sizes)
        for (const double scale : {1.0, 30.0})
            for (const bool accumulate : {false, true}) {
                const Tensor x = normal({n}, GetParam(), scale);
                const Tensor got = on(poisoned({n}, GetParam()));
                const Tensor want = wide(x);
                log_sigmoid(got, on(x));
                log_sigmoid(want, wide(x));
                expect_elements(got, want);
                const Tensor dy = normal({n}, GetParam());
                const Tensor dx = output({n}, GetParam(), accumulate);
                const Tensor got_dx = on(dx);
                const Tensor want_dx = wide(dx);
                log_sigmoid_backward(got_dx, on(dy), on(x), accumulate);
                log_sigmoid_backward(want_dx, wide(dy), wide(x), accumulate);
                expect_elements(got_dx, want_dx, accumulate ? 1.0 : 0.0);
            }
}

TEST_P(CudaElementwise, ProbabilityWeights) {
    for (const std::int64_t n : sizes)
        for (const auto& [a, b] : {std::pair{0.0, 0.0}, {1.0, 0.0}, {0.0, 1.0}, {5.0, 1.0}, {0.5, 2.5}}) {
            std::vector<double> x = values(normal({n}, DType::f64, 8.0));
            for (std::size_t i = 0; i < x.size(); ++i)  // from near 0 to far below
                x[i] = i == 0 ? 0.0 : -std::abs(x[i]) * std::pow(10.0, -static_cast<double>(i % 8));
            const Tensor logp = from_doubles(x, {n}, GetParam());
            const Tensor got = on(poisoned({n}, GetParam()));
            const Tensor want = wide(logp).clone();
            probability_weights(got, on(logp), a, b);
            probability_weights(want, wide(logp), a, b);
            expect_elements(got, want, 0.0, 5e-5);  // exponents up to 5 * 30, each rounded to f32
        }
}

TEST_P(CudaElementwise, SumBackward) {
    for (const std::int64_t n : sizes)
        for (const DType from : {DType::f32, DType::bf16})
            for (const bool accumulate : {false, true}) {
                const Tensor dy = normal({1}, from);
                const Tensor dx = output({n}, GetParam(), accumulate);
                const Tensor got = on(dx);
                const Tensor want = wide(dx);
                sum_backward(got, on(dy), accumulate);
                sum_backward(want, wide(dy), accumulate);
                expect_elements(got, want, 1.0);
            }
}

TEST_P(CudaElementwise, ExtrapolationEndsExactlyAtItsTwoModels) {
    for (const std::int64_t n : sizes) {
        const Tensor u = normal({n}, GetParam());
        const Tensor z = normal({n}, DType::f32);
        const Tensor y = on(poisoned({n}, DType::f32));
        extrapolate(y, on(u), on(z), 0.0);
        EXPECT_TRUE(same_bits(y.to(Device{}), u.to(DType::f32)));
        extrapolate(y, on(u), on(z), -1.0);
        EXPECT_TRUE(same_bits(y.to(Device{}), z));
        extrapolate(y, on(u), on(z), 0.5);
        const Tensor want = wide(z).clone();
        extrapolate(want, wide(u), wide(z), 0.5);
        expect_elements(y, want, 1.0, 0x1p-23);
    }
}

TEST_P(CudaElementwise, NormalNumbersHaveTheBitsOfTheCpu) {
    const Tensor here = Tensor::empty({1000}, GetParam());
    const Tensor there = on(here);
    fill_normal(here, 0.02, seed(), 3);
    fill_normal(there, 0.02, seed(), 3);
    EXPECT_TRUE(same_bits(there.to(Device{}), here));
}

using CudaErrors = Cuda;

TEST_F(CudaErrors, TensorsOfTwoDevicesAndReadingTheDeviceFromTheHost) {
    const Tensor here = Tensor::zeros({4}, DType::f32);
    EXPECT_THROW(add(on(here), here, here), Error);
    EXPECT_THROW((void)on(here).data<float>(), Error);
    EXPECT_THROW((void)on(Tensor::zeros({4}, DType::f64)).clone().to(DType::f32), Error);
}

}  // namespace
}  // namespace uipe::tensor::test
