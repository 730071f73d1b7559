// Ops that take one element after another. They wait for memory alone, so each thread moves 16 bytes at a time.
#include <cmath>

#include "tensor/cpu/cpu.h"
#include "tensor/cuda/floats.h"

namespace uipe::tensor::cuda {
namespace {

constexpr int block = 256;

__device__ inline std::int64_t index() {
    return static_cast<std::int64_t>(dev::block_x()) * dev::threads() + dev::thread();
}

// A functor f(y, x…) says in `reads_y` whether it needs y; else it gets 0, for y may hold anything.

/// y = f(y, x…) over n elements, one a thread.
template <class F, class T, class... X>
__global__ void map_elements(F f, std::int64_t n, T* y, const X*... x) {
    const std::int64_t i = index();
    if (i < n) y[i] = dev::to<T>(f(F::reads_y ? dev::to_float(y[i]) : 0.0F, dev::to_float(x[i])...));
}

/// The same, one vector a thread; n counts vectors.
template <class F, class T, class... X>
__global__ void map_vectors(F f, std::int64_t n, T* y, const X*... x) {
    constexpr int size = dev::Vec<T>::size;
    const std::int64_t at = index() * size;
    if (at >= n * size) return;
    dev::Vec<T> out;
    if constexpr (F::reads_y) out = dev::load(y + at);
    const auto each = [&](const auto&... in) {
        for (int i = 0; i < size; ++i)
            out.at[i] = dev::to<T>(f(F::reads_y ? dev::to_float(out.at[i]) : 0.0F, dev::to_float(in.at[i])...));
    };
    each(dev::load(x + at)...);
    dev::store(y + at, out);
}

Launch over(std::int64_t n) { return {.grid = {ceil_div(n, block)}, .threads = block}; }

/// Queues y = f(y, x…): vectors where the operands have one type and begin at multiples of 16 bytes (a view of rows may
/// begin anywhere), and elements for what is left.
template <class F, class T, class... X>
void map(const F& f, std::int64_t n, T* y, const X*... x) {
    std::int64_t done = 0;
    if constexpr ((std::is_same_v<T, X> && ...)) {
        const auto aligned = [](const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; };
        if (aligned(y) && (aligned(x) && ...)) {
            const std::int64_t vectors = n / dev::Vec<T>::size;
            launch(map_vectors<F, T, X...>, over(vectors), f, vectors, y, x...);
            done = vectors * dev::Vec<T>::size;
        }
    }
    launch(map_elements<F, T, X...>, over(n - done), f, n - done, y + done, (x + done)...);
}

struct Fill {
    static constexpr bool reads_y = false;
    float value;
    __device__ float operator()(float /*y*/) const { return value; }
};

struct Copy {
    static constexpr bool reads_y = false;
    __device__ float operator()(float /*y*/, float x) const { return x; }
};

/// 0 * NaN is NaN, so y is not read when b is 0.
template <bool reads>
struct Axpby {
    static constexpr bool reads_y = reads;
    float a, b;
    __device__ float operator()(float y, float x) const { return reads ? a * x + b * y : a * x; }
};

template <bool accumulate>
struct Mul {
    static constexpr bool reads_y = accumulate;
    __device__ float operator()(float y, float a, float b) const { return accumulate ? y + a * b : a * b; }
};

struct Add {
    static constexpr bool reads_y = false;
    __device__ float operator()(float /*y*/, float a, float b) const { return a + b; }
};

struct LogSigmoid {
    static constexpr bool reads_y = false;
    __device__ float operator()(float /*y*/, float x) const {
        return dev::min_of(x, 0.0F) - dev::log1p(dev::exp(x < 0.0F ? x : -x));
    }
};

template <bool accumulate>
struct LogSigmoidBackward {
    static constexpr bool reads_y = accumulate;
    __device__ float operator()(float dx, float dy, float x) const {
        const float e = dev::exp(x < 0.0F ? x : -x);
        const float d = dy * ((x >= 0.0F ? e : 1.0F) / (1.0F + e));
        return accumulate ? dx + d : d;
    }
};

struct ProbabilityWeight {
    static constexpr bool reads_y = false;
    float a, b;
    __device__ float operator()(float /*y*/, float logp) const {
        const float p = dev::exp(logp);
        // 1 - p by Kahan's quotient, which takes the rounding of p out again where p is near 1.
        const float rest = logp < -1.0F ? 1.0F - p : p == 1.0F ? -logp : (1.0F - p) * (logp / dev::log(p));
        const float of_p = a == 0.0F ? 1.0F : dev::exp(a * logp);
        return b == 0.0F ? of_p : rest == 0.0F ? 0.0F : of_p * dev::exp(b * dev::log(rest));
    }
};

/// One number, which is on the device, for every element.
template <bool accumulate, class X>
struct Spread {
    static constexpr bool reads_y = accumulate;
    const X* x;
    __device__ float operator()(float y) const { return accumulate ? y + dev::to_float(*x) : dev::to_float(*x); }
};

template <class Y, class U, class Z>
__global__ void extrapolate_kernel(Y* y, const U* u, const Z* z, double alpha, std::int64_t n) {
    const std::int64_t i = index();
    if (i >= n) return;
    y[i] = dev::to<Y>(static_cast<float>((1.0 + alpha) * static_cast<double>(dev::to_float(u[i])) -
                                         alpha * static_cast<double>(dev::to_float(z[i]))));
}

/// In f64, for the few numbers that ranks add up.
template <class X>
__global__ void axpby_f64(double* y, double a, const X* x, double b, std::int64_t n) {
    const std::int64_t i = index();
    if (i < n) y[i] = a * static_cast<double>(x[i]) + (b == 0.0 ? 0.0 : b * y[i]);
}

}  // namespace

void fill(const Tensor& y, double value) {
    if (value == 0.0 && !std::signbit(value)) return set_bytes(y.raw(), 0, y.nbytes());  // of any type
    with_float(y.dtype(), [&]<class T>() { map(Fill{static_cast<float>(value)}, y.numel(), at<T>(y)); });
}

void copy(const Tensor& y, const Tensor& x) {
    if (y.dtype() == x.dtype()) return copy_within(y.raw(), x.raw(), y.nbytes());  // of any type
    with_float(y.dtype(), [&]<class Y>() {
        with_float(x.dtype(), [&]<class X>() { map(Copy{}, y.numel(), at<Y>(y), static_cast<const X*>(at<X>(x))); });
    });
}

void axpby(const Tensor& y, double a, const Tensor& x, double b) {
    if (y.dtype() == DType::f64) {
        const auto run = [&]<class X>(const X* from) {
            launch(axpby_f64<X>, over(y.numel()), static_cast<double*>(y.raw()), a, from, b, y.numel());
        };
        if (x.dtype() == DType::f64) return run(static_cast<const double*>(x.raw()));
        require(x.dtype() == DType::f32, "axpby: f64 sums take f64 or f32, not ", name_of(x.dtype()));
        return run(static_cast<const float*>(x.raw()));
    }
    with_float(y.dtype(), [&]<class Y>() {
        with_float(x.dtype(), [&]<class X>() {
            with_flag(b != 0.0, [&]<bool reads>() {
                map(Axpby<reads>{static_cast<float>(a), static_cast<float>(b)}, y.numel(), at<Y>(y),
                    static_cast<const X*>(at<X>(x)));
            });
        });
    });
}

void mul(const Tensor& y, const Tensor& a, const Tensor& b, bool accumulate) {
    with_float(y.dtype(), [&]<class T>() {
        with_flag(accumulate, [&]<bool adds>() {
            map(Mul<adds>{}, y.numel(), at<T>(y), static_cast<const T*>(at<T>(a)), static_cast<const T*>(at<T>(b)));
        });
    });
}

void add(const Tensor& y, const Tensor& x, const Tensor& r) {
    with_float(y.dtype(), [&]<class T>() {
        map(Add{}, y.numel(), at<T>(y), static_cast<const T*>(at<T>(x)), static_cast<const T*>(at<T>(r)));
    });
}

void log_sigmoid(const Tensor& y, const Tensor& x) {
    with_float(y.dtype(), [&]<class T>() { map(LogSigmoid{}, y.numel(), at<T>(y), static_cast<const T*>(at<T>(x))); });
}

void log_sigmoid_backward(const Tensor& dx, const Tensor& dy, const Tensor& x, bool accumulate) {
    with_float(dx.dtype(), [&]<class T>() {
        with_flag(accumulate, [&]<bool adds>() {
            map(LogSigmoidBackward<adds>{}, dx.numel(), at<T>(dx), static_cast<const T*>(at<T>(dy)),
                static_cast<const T*>(at<T>(x)));
        });
    });
}

void probability_weights(const Tensor& y, const Tensor& logp, double a, double b) {
    with_float(y.dtype(), [&]<class T>() {
        map(ProbabilityWeight{static_cast<float>(a), static_cast<float>(b)}, y.numel(), at<T>(y),
            static_cast<const T*>(at<T>(logp)));
    });
}

void sum_backward(const Tensor& dx, const Tensor& dy, bool accumulate) {
    with_float(dx.dtype(), [&]<class T>() {
        with_float(dy.dtype(), [&]<class X>() {
            with_flag(accumulate, [&]<bool adds>() { map(Spread<adds, X>{at<X>(dy)}, dx.numel(), at<T>(dx)); });
        });
    });
}

void extrapolate(const Tensor& y, const Tensor& x_u, const Tensor& x_0, double alpha) {
    // The formula would turn -0 into 0 here, and 0 * infinity into NaN.
    if (alpha == 0.0) return cuda::copy(y, x_u);
    if (alpha == -1.0) return cuda::copy(y, x_0);
    with_float(y.dtype(), [&]<class Y>() {
        with_float(x_u.dtype(), [&]<class U>() {
            with_float(x_0.dtype(), [&]<class Z>() {
                launch(extrapolate_kernel<Y, U, Z>, over(y.numel()), at<Y>(y), at<U>(x_u), at<Z>(x_0), alpha,
                       y.numel());
            });
        });
    });
}

// Models begin with random numbers, once: the host's are the same bits on every device.

void fill_normal(const Tensor& y, double std, std::uint64_t seed, std::uint64_t stream) {
    const Tensor here = Tensor::empty(y.shape(), y.dtype());
    cpu::fill_normal(here, std, seed, stream);
    upload(y.raw(), here.raw(), here.nbytes());
}

void fill_uniform(const Tensor& y, double bound, std::uint64_t seed, std::uint64_t stream) {
    const Tensor here = Tensor::empty(y.shape(), y.dtype());
    cpu::fill_uniform(here, bound, seed, stream);
    upload(y.raw(), here.raw(), here.nbytes());
}

}  // namespace uipe::tensor::cuda
