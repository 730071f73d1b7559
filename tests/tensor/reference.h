// What the tests of this floor share: random inputs from a printed seed, poisoned outputs, and a comparison whose
// tolerance is derived, not chosen.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "tensor/ops.h"
#include "tensor/parallel.h"
#include "tensor/random.h"
#include "tensor/tensor.h"

namespace uipe::tensor::test {

/// A new seed each run, printed; UIPE_TEST_SEED=N repeats a run.
inline std::uint64_t seed() {
    static const std::uint64_t value = [] {
        const char* given = std::getenv("UIPE_TEST_SEED");
        const std::uint64_t s = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
        std::cout << "UIPE_TEST_SEED=" << s << " repeats these random inputs\n";
        return s;
    }();
    return value;
}

/// A generator no other call shares.
inline Random fresh() {
    static std::uint64_t stream = 0;
    return {seed(), stream++};
}

inline Tensor from_doubles(const std::vector<double>& x, const Shape& shape, DType dtype) {
    return Tensor::from(x, shape).to(dtype);
}

inline Tensor normal(const Shape& shape, DType dtype, double std = 1.0) {
    Random random = fresh();
    std::vector<double> x(static_cast<std::size_t>(numel(shape)));
    for (double& v : x) v = std * random.normal();
    return from_doubles(x, shape, dtype);
}

/// Indices drawn from [low, high).
inline Tensor indices(std::int64_t n, std::int32_t low, std::int32_t high) {
    Random random = fresh();
    std::vector<std::int32_t> x(static_cast<std::size_t>(n));
    for (auto& v : x) v = low + static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(high - low)));
    return Tensor::from(x);
}

/// cu_seqlens of sequences with these lengths.
inline Tensor packed(const std::vector<std::int32_t>& lengths) {
    std::vector<std::int32_t> cu{0};
    for (const std::int32_t n : lengths) cu.push_back(cu.back() + n);
    return Tensor::from(cu);
}

/// NaN in every element, or a wild index: an element that an op leaves unwritten cannot pass.
inline Tensor poisoned(const Shape& shape, DType dtype) {
    Tensor t = Tensor::empty(shape, dtype);
    if (t.numel() > 0) std::memset(t.raw(), dtype == DType::i32 ? 0x5A : 0xFF, t.nbytes());
    return t;
}

/// An output to be added to when `accumulate`, else one that must be overwritten.
inline Tensor output(const Shape& shape, DType dtype, bool accumulate) {
    return accumulate ? normal(shape, dtype) : poisoned(shape, dtype);
}

inline std::vector<double> values(const Tensor& t) {
    if (t.dtype() == DType::i32) {
        const auto x = t.to_vector<std::int32_t>();
        return {x.begin(), x.end()};
    }
    return t.to(DType::f64).to_vector<double>();
}

/// The largest relative error of one rounding: 53, 24 or 8 bits of significand.
inline double unit(DType dtype) {
    return dtype == DType::f64 ? 0x1p-53 : dtype == DType::f32 ? 0x1p-24 : 0x1p-8;  // half of the last bit
}

/// An expected value and the sum of the absolute values of the terms that make it.
struct Want {
    double value = 0.0;
    double terms = 0.0;

    void add(double term) {
        value += term;
        terms += std::abs(term);
    }
};

/// Compares y with f64 references. Each term may go through `roundings` in the accumulator's type (for a sum of n
/// products about n + 1), and as many again in a f64 reference; the sum is then rounded once to the type of y.
/// The terms and not the value scale the first part: cancellation is no fault of the op.
inline void expect_near(const Tensor& y, const std::vector<Want>& want, double roundings,
                        const std::string& what = "") {
    ASSERT_EQ(static_cast<std::size_t>(y.numel()), want.size()) << what;
    const std::vector<double> got = values(y);
    const bool wide = y.dtype() == DType::f64;
    for (std::size_t i = 0; i < got.size(); ++i) {
        const double sum_error = 2.0 * roundings * unit(accumulator_of(y.dtype())) * want[i].terms;
        const double least = wide ? std::numeric_limits<double>::min() : double{std::numeric_limits<float>::min()};
        const double tolerance = sum_error + unit(y.dtype()) * (std::abs(want[i].value) + sum_error) + least;
        ASSERT_LE(std::abs(got[i] - want[i].value), tolerance)  // false for NaN
            << what << " element " << i << " of " << to_string(y.shape()) << ": got " << got[i] << ", want "
            << want[i].value;
    }
}

/// Adds what the output held before, for accumulate.
inline void add_before(std::vector<Want>& want, const Tensor& before) {
    const std::vector<double> old = values(before);
    for (std::size_t i = 0; i < want.size(); ++i) want[i].add(old[i]);
}

inline bool same_bits(const Tensor& a, const Tensor& b) {
    return a.dtype() == b.dtype() && a.shape() == b.shape() &&
           (a.nbytes() == 0 || std::memcmp(a.raw(), b.raw(), a.nbytes()) == 0);
}

/// Runs `run() -> std::vector<Tensor>` with 1, 2 and 3 threads and expects equal bits.
template <class Run>
void expect_same_bits_for_any_threads(const Run& run) {
    const int threads = num_threads();
    set_num_threads(1);
    const std::vector<Tensor> one = run();
    for (const int n : {2, 3}) {
        set_num_threads(n);
        const std::vector<Tensor> many = run();
        ASSERT_EQ(one.size(), many.size());
        for (std::size_t i = 0; i < one.size(); ++i)
            EXPECT_TRUE(same_bits(one[i], many[i])) << "output " << i << " differs with " << n << " threads";
    }
    set_num_threads(threads);
}

/// For tests that run once for each float type.
class EachType : public ::testing::TestWithParam<DType> {};

/// What f32 masters have beyond the weights of bf16 nearest to them, in places of the master (tensor/master.h).
inline Tensor rest_of(const Tensor& masters, const Tensor& weights) {
    const std::vector<float> m = masters.to_vector<float>();
    std::vector<bf16> out = weights.to_vector<bf16>();
    for (std::size_t i = 0; i < out.size(); ++i) {
        const std::int64_t places =
            std::int64_t{std::bit_cast<std::uint32_t>(m[i])} - (std::int64_t{out[i].bits} << 16);
        out[i].bits = static_cast<std::uint16_t>(std::min<std::int64_t>(places, 32767));
    }
    return Tensor::from(out, masters.shape());
}

inline std::string type_name(const ::testing::TestParamInfo<DType>& info) { return name_of(info.param); }

#define UIPE_EACH_FLOAT_TYPE(Suite) \
    INSTANTIATE_TEST_SUITE_P(Types, Suite, ::testing::Values(DType::f64, DType::f32, DType::bf16), type_name)

}  // namespace uipe::tensor::test
