// RMSNorm, SwiGLU and the embedding table.
#include <cmath>
#include <cstring>
#include <vector>

#include "tensor/cpu/cpu.h"
#include "tensor/cpu/math.h"
#include "tensor/parallel.h"

namespace uipe::tensor::cpu {

void rmsnorm(const Tensor& y, const Tensor& rstd, const Tensor& x, const Tensor& w, double eps) {
    const std::int64_t C = x.dim(1);
    with_float(x.dtype(), [&]<class T>() {
        using A = acc_t<T>;
        const T* weight = w.data<T>();
        parallel_for(x.dim(0), 16, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t t = begin; t < end; ++t) {
                const T* in = x.data<T>() + t * C;
                T* out = y.data<T>() + t * C;
                A s = 0;
#pragma omp simd reduction(+ : s)
                for (std::int64_t c = 0; c < C; ++c) s += static_cast<A>(in[c]) * static_cast<A>(in[c]);
                const A r = A{1} / std::sqrt(s / static_cast<A>(C) + static_cast<A>(eps));
                rstd.data<A>()[t] = r;
                for (std::int64_t c = 0; c < C; ++c)
                    out[c] = static_cast<T>(static_cast<A>(in[c]) * r * static_cast<A>(weight[c]));
            }
        });
    });
}

namespace {

/// dw[C] += sum over rows of dy * x * rstd, split over columns so that each sum runs in order of rows.
template <class T>
void rmsnorm_weight_gradient(const Tensor& dw, const Tensor& dy, const Tensor& x, const Tensor& rstd) {
    using A = acc_t<T>;
    const std::int64_t rows = x.dim(0);
    const std::int64_t C = x.dim(1);
    parallel_for(C, 64, [&](std::int64_t begin, std::int64_t end) {
        A* out = dw.data<A>();
        for (std::int64_t t = 0; t < rows; ++t) {
            const T* in = x.data<T>() + t * C;
            const T* g = dy.data<T>() + t * C;
            const A r = rstd.data<A>()[t];
            for (std::int64_t c = begin; c < end; ++c) out[c] += static_cast<A>(g[c]) * static_cast<A>(in[c]) * r;
        }
    });
}

}  // namespace

void rmsnorm_backward(const Tensor& dx, const Tensor& dw, const Tensor& dy, const Tensor& x, const Tensor& w,
                      const Tensor& rstd, bool accumulate_dx) {
    const std::int64_t C = x.dim(1);
    with_float(x.dtype(), [&]<class T>() {
        using A = acc_t<T>;
        if (dw.defined()) rmsnorm_weight_gradient<T>(dw, dy, x, rstd);
        if (!dx.defined()) return;
        const T* weight = w.data<T>();
        parallel_for(x.dim(0), 16, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t t = begin; t < end; ++t) {
                const T* in = x.data<T>() + t * C;
                const T* g = dy.data<T>() + t * C;
                T* out = dx.data<T>() + t * C;
                const A r = rstd.data<A>()[t];
                A dot = 0;
#pragma omp simd reduction(+ : dot)
                for (std::int64_t c = 0; c < C; ++c)
                    dot += static_cast<A>(g[c]) * static_cast<A>(weight[c]) * static_cast<A>(in[c]);
                const A shift = dot * r * r * r / static_cast<A>(C);
                for (std::int64_t c = 0; c < C; ++c) {
                    const A d = static_cast<A>(g[c]) * static_cast<A>(weight[c]) * r - static_cast<A>(in[c]) * shift;
                    out[c] = static_cast<T>(accumulate_dx ? static_cast<A>(out[c]) + d : d);
                }
            }
        });
    });
}

void swiglu(const Tensor& y, const Tensor& gate, const Tensor& up) {
    with_float(y.dtype(), [&]<class T>() {
        using A = acc_t<T>;
        const T* g = gate.data<T>();
        const T* u = up.data<T>();
        T* out = y.data<T>();
        parallel_for(y.numel(), 8192, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t i = begin; i < end; ++i) {
                const A a = static_cast<A>(g[i]);
                out[i] = static_cast<T>(a * sigmoid(a) * static_cast<A>(u[i]));
            }
        });
    });
}

void swiglu_backward(const Tensor& dgate, const Tensor& dup, const Tensor& dy, const Tensor& gate, const Tensor& up,
                     bool accumulate_gate, bool accumulate_up) {
    with_float(dy.dtype(), [&]<class T>() {
        using A = acc_t<T>;
        const T* g = gate.data<T>();
        const T* u = up.data<T>();
        const T* d = dy.data<T>();
        T* dg = dgate.data<T>();
        T* du = dup.data<T>();
        parallel_for(dy.numel(), 8192, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t i = begin; i < end; ++i) {
                const A a = static_cast<A>(g[i]);
                const A s = sigmoid(a);
                const A grad = static_cast<A>(d[i]);
                const A to_gate = grad * static_cast<A>(u[i]) * s * (A{1} + a * (A{1} - s));
                const A to_up = grad * a * s;
                dg[i] = static_cast<T>(accumulate_gate ? static_cast<A>(dg[i]) + to_gate : to_gate);
                du[i] = static_cast<T>(accumulate_up ? static_cast<A>(du[i]) + to_up : to_up);
            }
        });
    });
}

void embedding(const Tensor& y, const Tensor& table, const Tensor& tokens) {
    const std::size_t row = table.nbytes() / static_cast<std::size_t>(table.dim(0));
    const std::int32_t* ids = tokens.data<std::int32_t>();
    parallel_for(tokens.numel(), 64, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t t = begin; t < end; ++t)
            std::memcpy(static_cast<std::byte*>(y.raw()) + static_cast<std::size_t>(t) * row,
                        static_cast<const std::byte*>(table.raw()) + static_cast<std::size_t>(ids[t]) * row, row);
    });
}

void embedding_backward(const Tensor& dtable, const Tensor& dy, const Tensor& tokens) {
    const std::int64_t C = dy.dim(1);
    const std::int32_t* ids = tokens.data<std::int32_t>();
    with_float(dy.dtype(), [&]<class T>() {
        using A = acc_t<T>;
        parallel_for(C, 32, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t t = 0; t < tokens.numel(); ++t) {
                A* out = dtable.data<A>() + ids[t] * C;
                const T* g = dy.data<T>() + t * C;
                for (std::int64_t c = begin; c < end; ++c) out[c] += static_cast<A>(g[c]);
            }
        });
    });
}

}  // namespace uipe::tensor::cpu
