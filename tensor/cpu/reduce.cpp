// Sums over whole tensors: fixed blocks, summed block by block, so that no thread count changes a bit.
#include <vector>

#include "tensor/cpu/cpu.h"
#include "tensor/cpu/simd.h"
#include "tensor/parallel.h"

namespace uipe::tensor::cpu {
namespace {

constexpr std::int64_t block = 4096;

/// The sum over blocks of term(i), each block and then the blocks in order, in f64.
template <class Term>
double blocked_sum(std::int64_t n, const Term& term) {
    const std::int64_t blocks = ceil_div(n, block);
    std::vector<double> partial(static_cast<std::size_t>(blocks));
    parallel_for(blocks, 4, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t b = begin; b < end; ++b) {
            // Sums side by side, as many as a few registers hold, that do not wait for one another.
            constexpr std::int64_t width = 32;
            double s[width] = {};
            const std::int64_t last = std::min(n, (b + 1) * block);
            std::int64_t i = b * block;
            for (; i + width <= last; i += width)
                for (std::int64_t l = 0; l < width; ++l) s[l] += term(i + l);
            for (std::int64_t l = 0; i + l < last; ++l) s[l] += term(i + l);
            for (const double part : s) partial[static_cast<std::size_t>(b)] += part;
        }
    });
    double total = 0.0;
    for (const double s : partial) total += s;
    return total;
}

}  // namespace

void sum(const Tensor& y, const Tensor& x) {
    with_float(x.dtype(), [&]<class T>() {
        const T* in = x.data<T>();
        const double total = blocked_sum(x.numel(), [in](std::int64_t i) { return static_cast<double>(in[i]); });
        with_float(y.dtype(), [&]<class Y>() { *y.data<Y>() = static_cast<Y>(total); });
    });
}

void sum_backward(const Tensor& dx, const Tensor& dy, bool accumulate) {
    if (!accumulate) return cpu::fill(dx, dy.item());
    cpu::axpby(dx, 1.0, Tensor::full(dx.shape(), accumulator_of(dx.dtype()), dy.item()), 1.0);
}

void add_squares(const Tensor& y, const Tensor& x) {
    with_float(x.dtype(), [&]<class T>() {
        const T* in = x.data<T>();
        *y.data<double>() += blocked_sum(x.numel(), [in](std::int64_t i) {
            const double v = static_cast<double>(in[i]);
            return v * v;
        });
    });
}

bool all_finite(const Tensor& x) {
    // 0 * x is 0 for finite x and NaN otherwise, and NaN survives the sum.
    double total = 0.0;
    with_float(x.dtype(), [&]<class T>() {
        const T* in = x.data<T>();
        total = blocked_sum(x.numel(), [in](std::int64_t i) { return 0.0 * static_cast<double>(in[i]); });
    });
    return total == 0.0;
}

void squared_distance(const Tensor& d, const Tensor& x, const Tensor& y) {
    const std::int64_t C = x.dim(1);
    with_float(x.dtype(), [&]<class T>() {
        using A = acc_t<T>;
        parallel_for(x.dim(0), 16, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t t = begin; t < end; ++t) {
                const T* p = x.data<T>() + t * C;
                const T* q = y.data<T>() + (y.dim(0) == 1 ? 0 : t * C);
                d.data<A>()[t] = sum_over<A>(C, [=](auto at) {
                    const auto apart = at.load(p) - at.load(q);
                    return apart * apart;
                });
            }
        });
    });
}

void squared_distance_backward(const Tensor& dx, const Tensor& dd, const Tensor& x, const Tensor& y, bool accumulate) {
    const std::int64_t C = x.dim(1);
    with_float(x.dtype(), [&]<class T>() {
        using A = acc_t<T>;
        parallel_for(x.dim(0), 16, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t t = begin; t < end; ++t) {
                const T* p = x.data<T>() + t * C;
                const T* q = y.data<T>() + (y.dim(0) == 1 ? 0 : t * C);
                T* out = dx.data<T>() + t * C;
                const A slope = A{2} * dd.data<A>()[t];
                for (std::int64_t c = 0; c < C; ++c) {
                    const A before = accumulate ? static_cast<A>(out[c]) : A{0};
                    out[c] = static_cast<T>(before + slope * (static_cast<A>(p[c]) - static_cast<A>(q[c])));
                }
            }
        });
    });
}

void segment_sum(const Tensor& y, const Tensor& x, const Tensor& cu_seqlens) {
    const std::int32_t* cu = cu_seqlens.data<std::int32_t>();
    with_float(x.dtype(), [&]<class T>() {
        for (std::int64_t b = 0; b < y.numel(); ++b) {
            double s = 0.0;
            for (std::int32_t t = cu[b]; t < cu[b + 1]; ++t) s += static_cast<double>(x.data<T>()[t]);
            y.data<T>()[b] = static_cast<T>(s);
        }
    });
}

void segment_sum_backward(const Tensor& dx, const Tensor& dy, const Tensor& cu_seqlens, bool accumulate) {
    const std::int32_t* cu = cu_seqlens.data<std::int32_t>();
    with_float(dx.dtype(), [&]<class T>() {
        T* out = dx.data<T>();
        for (std::int64_t b = 0; b < dy.numel(); ++b)
            for (std::int32_t t = cu[b]; t < cu[b + 1]; ++t)
                out[t] = accumulate
                             ? static_cast<T>(static_cast<acc_t<T>>(out[t]) + static_cast<acc_t<T>>(dy.data<T>()[b]))
                             : dy.data<T>()[b];
    });
}

}  // namespace uipe::tensor::cpu
