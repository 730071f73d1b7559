// What the tests of the CUDA backend share. They call ops.h with tensors on the device, on a GPU or on the emulator,
// and compare with the CPU in f64 on the same inputs.
#pragma once

#include "tests/tensor/reference.h"

namespace uipe::tensor::test {

/// Skips, with the reason, where the backend is not built or has no device.
class Cuda : public ::testing::Test {
protected:
    void SetUp() override {
        try {
            cuda_ = device_named("cuda");
        } catch (const InputError& e) {
            GTEST_SKIP() << e.what();
        }
    }

    Device cuda() const { return cuda_; }
    Tensor on(const Tensor& t) const { return t.defined() ? t.to(cuda_) : t; }

private:
    Device cuda_;
};

/// The same tests in f32 and in bf16.
class CudaFloats : public Cuda, public ::testing::WithParamInterface<DType> {};
#define UIPE_CUDA_FLOATS(Suite)                                                                                        \
    INSTANTIATE_TEST_SUITE_P(Types, Suite, ::testing::Values(::uipe::tensor::DType::f32, ::uipe::tensor::DType::bf16), \
                             ::uipe::tensor::test::type_name)

inline Tensor wide(const Tensor& t) { return t.defined() && t.dtype() != DType::i32 ? t.to(DType::f64) : t; }

inline Tensor absolute(const Tensor& x) {
    std::vector<double> y = values(x);
    for (double& v : y) v = std::abs(v);
    return Tensor::from(y, x.shape());
}

/// op(a) op(b), of f64 on the host.
inline Tensor product(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b) {
    Tensor y = Tensor::empty({a.dim(transpose_a ? 1 : 0), b.dim(transpose_b ? 0 : 1)}, DType::f64);
    matmul(y, a, transpose_a, b, transpose_b);
    return y;
}

/// For ops that round each element once: f32 within `relative` of the value or of `scale`, whichever is more; bf16
/// within one ulp on 99.9 % of the elements and within two on all.
inline void expect_elements(const Tensor& on_device, const Tensor& want, double scale = 0.0, double relative = 1e-5) {
    ASSERT_EQ(on_device.shape(), want.shape());
    const std::vector<double> got = values(on_device.to(Device{}));
    const std::vector<double> expected = values(want);
    std::size_t beyond = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
        const double size = std::max(std::abs(expected[i]), scale);
        // An ulp of bf16 is at most 2^-7 of the value; what f32 sums lost before the rounding may add to it.
        const double ulp = on_device.dtype() == DType::bf16 ? 0x1p-7 * std::abs(expected[i]) : 0.0;
        const double tiny = std::numeric_limits<float>::min();
        const double error = std::abs(got[i] - expected[i]);
        ASSERT_LE(error, 2.0 * ulp + relative * size + tiny)  // false for NaN
            << "element " << i << " of " << to_string(want.shape()) << ": got " << got[i] << ", want " << expected[i];
        beyond += error > ulp + relative * size + tiny ? 1U : 0U;
    }
    EXPECT_LE(static_cast<double>(beyond), 1e-3 * static_cast<double>(got.size()))
        << "elements off by more than an ulp";
}

/// The norm of the difference against the norm of what is expected.
inline double norm_error(const Tensor& on_device, const Tensor& want) {
    const std::vector<double> got = values(on_device.to(Device{}));
    const std::vector<double> expected = values(want);
    double difference = 0.0;
    double size = 0.0;
    for (std::size_t i = 0; i < got.size(); ++i) {
        difference += (got[i] - expected[i]) * (got[i] - expected[i]);
        size += expected[i] * expected[i];
    }
    return size > 0.0 ? std::sqrt(difference / size) : std::sqrt(difference);
}

}  // namespace uipe::tensor::test
