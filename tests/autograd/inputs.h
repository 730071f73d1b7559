// Random tensors and leaves for the tests of this floor and those above.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <vector>

#include "autograd/variable.h"
#include "tensor/ops.h"
#include "tensor/parallel.h"

namespace uipe::test {

/// N(0, std²) in `dtype`; another stream gives other numbers, another dtype the same but for rounding.
inline tensor::Tensor normal(tensor::Shape shape, std::uint64_t stream, double std = 1.0,
                             tensor::DType dtype = tensor::DType::f64) {
    const tensor::Tensor x = tensor::Tensor::empty(std::move(shape), dtype);
    tensor::fill_normal(x, std, 11, stream);
    return x;
}

inline tensor::Tensor ints(const std::vector<std::int32_t>& values) { return tensor::Tensor::from(values); }

/// cu_seqlens of sequences of these lengths.
inline tensor::Tensor packed(std::initializer_list<std::int32_t> lengths) {
    std::vector<std::int32_t> cu{0};
    for (const std::int32_t n : lengths) cu.push_back(cu.back() + n);
    return ints(cu);
}

/// The elements of any float tensor.
inline std::vector<double> doubles(const tensor::Tensor& x) { return x.to(tensor::DType::f64).to_vector<double>(); }

/// max |a - b| / max(1, max |b|); infinite when one is not a number.
inline double apart(const tensor::Tensor& a, const tensor::Tensor& b) {
    require(a.shape() == b.shape(), "shapes ", tensor::to_string(a.shape()), " and ", tensor::to_string(b.shape()));
    const std::vector<double> p = doubles(a);
    const std::vector<double> q = doubles(b);
    double largest = 1.0;
    double worst = 0.0;
    for (std::size_t i = 0; i < p.size(); ++i) {
        const double error = std::abs(p[i] - q[i]);
        if (!(error < std::numeric_limits<double>::infinity())) return std::numeric_limits<double>::infinity();
        largest = std::max(largest, std::abs(q[i]));
        worst = std::max(worst, error);
    }
    return worst / largest;
}

/// ‖a - b‖ / ‖b‖.
inline double relative_distance(const tensor::Tensor& a, const tensor::Tensor& b) {
    const tensor::Tensor difference = a.to(tensor::DType::f64).clone();
    tensor::axpby(difference, -1.0, b.to(tensor::DType::f64), 1.0);
    return std::sqrt(tensor::sum_of_squares(difference) / tensor::sum_of_squares(b));
}

// Tests of memory count in megabytes, of so many elements.
inline constexpr double megabyte = 1 << 20;
inline constexpr std::int64_t megabyte_of_f64 = (1 << 20) / sizeof(double);

/// This many threads while it lives. One is best for many tiny ops, where starting threads is all the work.
class Threads {
public:
    explicit Threads(int n) : before_(tensor::num_threads()) { tensor::set_num_threads(n); }
    ~Threads() { tensor::set_num_threads(before_); }
    Threads(const Threads&) = delete;
    Threads& operator=(const Threads&) = delete;

private:
    int before_;
};

inline bool same_bits(const tensor::Tensor& a, const tensor::Tensor& b) {
    return a.shape() == b.shape() && a.dtype() == b.dtype() && std::memcmp(a.raw(), b.raw(), a.nbytes()) == 0;
}

}  // namespace uipe::test
