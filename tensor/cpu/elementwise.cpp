#include <cmath>

#include "tensor/cpu/cpu.h"
#include "tensor/cpu/simd.h"
#include "tensor/parallel.h"

namespace uipe::tensor::cpu {
void fill(const Tensor& y, double value) {
    if (y.dtype() == DType::i32) {
        std::fill_n(y.data<std::int32_t>(), y.numel(), static_cast<std::int32_t>(value));
        return;
    }
    with_float(y.dtype(), [&]<class T>() {
        T* out = y.data<T>();
        const T v = static_cast<T>(value);
        parallel_for(y.numel(), grain,
                     [&](std::int64_t begin, std::int64_t end) { std::fill(out + begin, out + end, v); });
    });
}

void copy(const Tensor& y, const Tensor& x) {
    with_float(y.dtype(), [&]<class Y>() {
        with_float(x.dtype(), [&]<class X>() {
            Y* out = y.data<Y>();
            const X* in = x.data<X>();
            if constexpr (std::is_same_v<X, bf16> && std::is_same_v<Y, bf16>)  // the bits, whatever they stand for
                parallel_vectors<std::uint16_t>(
                    y.numel(), outgrows_caches(out, y.numel()),
                    [to = reinterpret_cast<std::uint16_t*>(out),
                     from = reinterpret_cast<const std::uint16_t*>(in)](auto at) { at.store(to, at.load(from)); });
            else if constexpr (std::is_same_v<acc_t<X>, acc_t<Y>>)
                parallel_vectors<acc_t<X>>(y.numel(), outgrows_caches(out, y.numel()),
                                           [=](auto at) { at.store(out, at.load(in)); });
            else
                parallel_for(y.numel(), grain, [&](std::int64_t begin, std::int64_t end) {
                    for (std::int64_t i = begin; i < end; ++i) out[i] = static_cast<Y>(static_cast<acc_t<X>>(in[i]));
                });
        });
    });
}

void axpby(const Tensor& y, double a, const Tensor& x, double b) {
    with_float(y.dtype(), [&]<class Y>() {
        with_float(x.dtype(), [&]<class X>() {
            using A = acc_t<Y>;
            Y* out = y.data<Y>();
            const X* in = x.data<X>();
            const A p = static_cast<A>(a);
            const A q = static_cast<A>(b);
            if constexpr (std::is_same_v<acc_t<X>, A>)
                parallel_vectors<A>(y.numel(), false, [=](auto at) {
                    // 0 * NaN is NaN: an unwritten y must not be read
                    at.store(out, q == 0 ? p * at.load(in) : p * at.load(in) + q * at.load(out));
                });
            else
                parallel_for(y.numel(), grain, [&](std::int64_t begin, std::int64_t end) {
                    for (std::int64_t i = begin; i < end; ++i) {
                        const A before = q == 0 ? A{0} : q * static_cast<A>(out[i]);
                        out[i] = static_cast<Y>(p * static_cast<A>(in[i]) + before);
                    }
                });
        });
    });
}

void mul(const Tensor& y, const Tensor& a, const Tensor& b, bool accumulate) {
    with_float(y.dtype(), [&]<class T>() {
        T* out = y.data<T>();
        const T* p = a.data<T>();
        const T* q = b.data<T>();
        parallel_vectors<acc_t<T>>(y.numel(), !accumulate && outgrows_caches(out, y.numel()), [=](auto at) {
            const auto product = at.load(p) * at.load(q);
            at.store(out, accumulate ? at.load(out) + product : product);
        });
    });
}

void add(const Tensor& y, const Tensor& x, const Tensor& r) {
    with_float(y.dtype(), [&]<class T>() {
        T* out = y.data<T>();
        const T* p = x.data<T>();
        const T* q = r.data<T>();
        parallel_vectors<acc_t<T>>(y.numel(), outgrows_caches(out, y.numel()),
                                   [=](auto at) { at.store(out, at.load(p) + at.load(q)); });
    });
}

void log_sigmoid(const Tensor& y, const Tensor& x) {
    with_float(y.dtype(), [&]<class T>() {
        using A = acc_t<T>;
        for (std::int64_t i = 0; i < y.numel(); ++i) {
            const A v = static_cast<A>(x.data<T>()[i]);
            y.data<T>()[i] = static_cast<T>(std::min(v, A{0}) - std::log1p(std::exp(-std::abs(v))));
        }
    });
}

void log_sigmoid_backward(const Tensor& dx, const Tensor& dy, const Tensor& x, bool accumulate) {
    with_float(dx.dtype(), [&]<class T>() {
        using A = acc_t<T>;
        for (std::int64_t i = 0; i < dx.numel(); ++i) {
            const A v = static_cast<A>(x.data<T>()[i]);
            const A e = std::exp(-std::abs(v));
            const A sigmoid_of_minus_v = (v >= A{0} ? e : A{1}) / (A{1} + e);
            const A base = accumulate ? static_cast<A>(dx.data<T>()[i]) : A{0};
            dx.data<T>()[i] = static_cast<T>(base + static_cast<A>(dy.data<T>()[i]) * sigmoid_of_minus_v);
        }
    });
}

void probability_weights(const Tensor& y, const Tensor& logp, double a, double b) {
    with_float(y.dtype(), [&]<class T>() {
        using A = acc_t<T>;
        for (std::int64_t i = 0; i < y.numel(); ++i) {
            const A x = static_cast<A>(logp.data<T>()[i]);
            const A of_p = a == 0.0 ? A{1} : std::exp(static_cast<A>(a) * x);
            y.data<T>()[i] = static_cast<T>(of_p * std::pow(-std::expm1(x), static_cast<A>(b)));
        }
    });
}

void extrapolate(const Tensor& y, const Tensor& x_u, const Tensor& x_0, double alpha) {
    // The formula would turn -0 into 0 here, and 0 * infinity into NaN.
    if (alpha == 0.0) return cpu::copy(y, x_u);
    if (alpha == -1.0) return cpu::copy(y, x_0);
    with_float(y.dtype(), [&]<class Y>() {
        with_float(x_u.dtype(), [&]<class U>() {
            with_float(x_0.dtype(), [&]<class Z>() {
                Y* out = y.data<Y>();
                const U* u = x_u.data<U>();
                const Z* z = x_0.data<Z>();
                parallel_for(y.numel(), grain, [&](std::int64_t begin, std::int64_t end) {
                    for (std::int64_t i = begin; i < end; ++i)
                        out[i] = static_cast<Y>((1.0 + alpha) * static_cast<double>(u[i]) -
                                                alpha * static_cast<double>(z[i]));
                });
            });
        });
    });
}

}  // namespace uipe::tensor::cpu
