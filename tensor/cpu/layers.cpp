// RMSNorm, SwiGLU and the embedding table.
#include <cmath>

#include "tensor/cpu/cpu.h"
#include "tensor/cpu/math.h"
#include "tensor/cpu/simd.h"
#include "tensor/parallel.h"
#include "tensor/workspace.h"

namespace uipe::tensor::cpu {

namespace {

/// w in the accumulator's type: widened once, not for every row.
Tensor widened(const Tensor& w) { return w.to(accumulator_of(w.dtype())); }

/// A row to be normalised: its elements, which are read twice, and what is to be kept the second time.
template <class T>
struct Row {
    const T* x;
    auto load(auto at) const { return at.load(x); }
    void keep(auto /*at*/) const {}
    void expect(std::int64_t i) const { __builtin_prefetch(x + i); }
};

/// The sum of two rows, which is kept. It is computed each time, so that its one store may pass the caches by.
template <class T>
struct SumOfRows {
    const T* x;
    const T* r;
    T* h;
    auto load(auto at) const { return rounded<T>(at.load(x) + at.load(r)); }
    void keep(auto at) const { at.store(h, at.load(x) + at.load(r)); }
    void expect(std::int64_t i) const {
        __builtin_prefetch(x + i);
        __builtin_prefetch(r + i);
    }
};

/// Rows whose sums are all made before the first is needed: a square root and two quotients take as long as many
/// elements. Those that follow are asked for while these are written, so that memory does both at once.
constexpr std::int64_t rows_at_once = 4;

/// y[T,C] and rstd[T] of the rows row(t).
template <class T, class RowAt>
void normalise(const Tensor& y, const Tensor& rstd, const Tensor& w, double eps, bool streamed, const RowAt& row_at) {
    using A = acc_t<T>;
    const std::int64_t C = y.dim(1);
    const Tensor wide = widened(w);
    const A* weight = wide.data<A>();
    A* scales = rstd.data<A>();
    T* out = y.data<T>();
    parallel_for(y.dim(0), 16, [&](std::int64_t begin, std::int64_t end) {
        with_place(streamed, [&]<class Place>() {
            for (std::int64_t first = begin; first < end; first += rows_at_once) {
                const std::int64_t last = std::min(end, first + rows_at_once);
                for (std::int64_t t = first; t < last; ++t) {
                    const A squares = sum_over<A>(C, [row = row_at(t)](auto at) {
                        const auto v = row.load(at);
                        return v * v;
                    });
                    scales[t] = A{1} / std::sqrt(squares / static_cast<A>(C) + static_cast<A>(eps));
                }
                for (std::int64_t t = first; t < last; ++t)
                    each_vector<A, Place>(0, C, [=, row = row_at(t), r = scales[t], to = out + t * C](auto at) {
                        const auto v = row.load(at);
                        row.expect(at.i + rows_at_once * C);
                        row.keep(at);
                        at.store(to, v * r * at.load(weight));
                    });
            }
        });
    });
}

}  // namespace

void rmsnorm(const Tensor& y, const Tensor& rstd, const Tensor& x, const Tensor& w, double eps) {
    const std::int64_t C = x.dim(1);
    with_float(x.dtype(), [&]<class T>() {
        const bool streamed = outgrows_caches(y.data<T>(), y.numel(), C);
        normalise<T>(y, rstd, w, eps, streamed, [in = x.data<T>(), C](std::int64_t t) { return Row<T>{in + t * C}; });
    });
}

void add_rmsnorm(const Tensor& h, const Tensor& y, const Tensor& rstd, const Tensor& x, const Tensor& r,
                 const Tensor& w, double eps) {
    const std::int64_t C = x.dim(1);
    with_float(x.dtype(), [&]<class T>() {
        const T* p = x.data<T>();
        const T* q = r.data<T>();
        T* sum = h.data<T>();
        const bool streamed = outgrows_caches(y.data<T>(), y.numel(), C) && outgrows_caches(sum, h.numel(), C);
        normalise<T>(y, rstd, w, eps, streamed, [=](std::int64_t t) {
            return SumOfRows<T>{p + t * C, q + t * C, sum + t * C};
        });
    });
}

namespace {

/// The gradients of n <= rows_at_once rows: dx (+)=, unless it is nullptr, and dw += dy x rstd.
template <class Place, class T, class A>
void rmsnorm_rows(T* dx, A* dw, const T* dy, const T* x, const A* w, const A* rstd, std::int64_t n, std::int64_t C,
                  bool accumulate) {
    A shifts[rows_at_once];
    for (std::int64_t t = 0; t < n; ++t) {
        const A r = rstd[t];
        const A dots = sum_over<A>(C, [=, dy = dy + t * C, x = x + t * C](auto at) {
            const auto g = at.load(dy);
            const auto v = at.load(x);
            if (dw != nullptr) at.store(dw, at.load(dw) + g * v * r);
            return g * at.load(w) * v;
        });
        shifts[t] = dots * r * r * r / static_cast<A>(C);
    }
    if (dx == nullptr) return;
    for (std::int64_t t = 0; t < n; ++t)
        each_vector<A, Place>(
            0, C, [=, r = rstd[t], shift = shifts[t], to = dx + t * C, dy = dy + t * C, x = x + t * C](auto at) {
                __builtin_prefetch(dy + rows_at_once * C + at.i);
                __builtin_prefetch(x + rows_at_once * C + at.i);
                const auto d = at.load(dy) * at.load(w) * r - at.load(x) * shift;
                at.store(to, accumulate ? at.load(to) + d : d);
            });
}

}  // namespace

void rmsnorm_backward(const Tensor& dx, const Tensor& dw, const Tensor& dy, const Tensor& x, const Tensor& w,
                      const Tensor& rstd, bool accumulate_dx) {
    // dw is summed over blocks of rows, and the blocks' sums in their order: the same for any number of threads.
    const std::int64_t T_rows = x.dim(0);
    const std::int64_t block = norm_group(T_rows, Device::Kind::cpu);
    const std::int64_t C = x.dim(1);
    const std::int64_t blocks = ceil_div(T_rows, block);
    const Tensor wide = widened(w);
    with_float(x.dtype(), [&]<class T>() {
        using A = acc_t<T>;
        const Tensor sums = dw.defined() ? Tensor::zeros({blocks, C}, accumulator_of(x.dtype())) : Tensor();
        A* to_w = dw.defined() ? sums.data<A>() : nullptr;
        T* to_x = dx.defined() ? dx.data<T>() : nullptr;
        const T* g = dy.data<T>();
        const T* in = x.data<T>();
        const bool streamed = dx.defined() && !accumulate_dx && outgrows_caches(to_x, dx.numel(), C);
        parallel_for(blocks, 1, [&](std::int64_t begin, std::int64_t end) {
            with_place(streamed, [&]<class Place>() {
                std::int64_t n = 0;
                for (std::int64_t t = begin * block; t < std::min(T_rows, end * block); t += n) {
                    const std::int64_t b = t / block;
                    n = std::min({rows_at_once, T_rows - t, (b + 1) * block - t});
                    rmsnorm_rows<Place>(to_x == nullptr ? nullptr : to_x + t * C,
                                        to_w == nullptr ? nullptr : to_w + b * C, g + t * C, in + t * C, wide.data<A>(),
                                        rstd.data<A>() + t, n, C, accumulate_dx);
                }
            });
        });
        if (!dw.defined()) return;
        for (std::int64_t b = 0; b < blocks; ++b) cpu::axpby(dw, 1.0, sums.rows(b, b + 1), 1.0);
    });
}

void swiglu(const Tensor& y, const Tensor& gate, const Tensor& up) {
    with_float(y.dtype(), [&]<class T>() {
        const T* g = gate.data<T>();
        const T* u = up.data<T>();
        T* out = y.data<T>();
        const auto compute = [=](auto at) {
            const auto a = at.load(g);
            return a * sigmoid(a) * at.load(u);
        };
        parallel_vectors<acc_t<T>>(y.numel(), outgrows_caches(out, y.numel()), compute,
                                   [=](auto at, const auto& v) { at.store(out, v); });
    });
}

void swiglu_backward(const Tensor& dgate, const Tensor& dup, const Tensor& dy, const Tensor& gate, const Tensor& up,
                     bool accumulate_gate, bool accumulate_up) {
    with_float(dy.dtype(), [&]<class T>() {
        using V = Vector<acc_t<T>>;
        struct Gradients {
            V gate, up;
        };
        const T* g = gate.data<T>();
        const T* u = up.data<T>();
        const T* d = dy.data<T>();
        T* dg = dgate.data<T>();
        T* du = dup.data<T>();
        const bool streamed =
            !accumulate_gate && !accumulate_up && outgrows_caches(dg, dy.numel()) && outgrows_caches(du, dy.numel());
        const auto compute = [=](auto at) {
            const V a = at.load(g);
            const V s = sigmoid(a);
            const V grad = at.load(d);
            return Gradients{grad * at.load(u) * s * (a * (1 - s) + 1), grad * a * s};
        };
        parallel_vectors<acc_t<T>>(dy.numel(), streamed, compute, [=](auto at, const Gradients& to) {
            at.store(dg, accumulate_gate ? at.load(dg) + to.gate : to.gate);
            at.store(du, accumulate_up ? at.load(du) + to.up : to.up);
        });
    });
}

namespace {

/// Rows of a table lie anywhere, and the processor foresees none: asks for one while another is worked on.
inline void prefetch(const void* row, std::size_t bytes) {
    for (std::size_t at = 0; at < bytes; at += 64) __builtin_prefetch(static_cast<const std::byte*>(row) + at);
}

}  // namespace

void embedding(const Tensor& y, const Tensor& table, const Tensor& tokens) {
    const std::int64_t C = y.dim(1);
    const std::int64_t T_rows = tokens.numel();
    const std::int32_t* ids = tokens.data<std::int32_t>();
    using Byte = std::uint8_t;  // bits are copied, whatever they mean
    const std::int64_t bytes = C * static_cast<std::int64_t>(size_of(y.dtype()));
    auto* out = static_cast<Byte*>(y.raw());
    const auto row = [&](std::int64_t t) { return static_cast<const Byte*>(table.raw()) + ids[t] * bytes; };
    parallel_for(T_rows, 64, [&](std::int64_t begin, std::int64_t end) {
        with_place(outgrows_caches(out, T_rows * bytes, bytes), [&]<class Place>() {
            for (std::int64_t t = begin; t < end; ++t) {
                if (t + 1 < end) prefetch(row(t + 1), static_cast<std::size_t>(bytes));
                each_vector<Byte, Place>(
                    0, bytes, [to = out + t * bytes, from = row(t)](auto at) { at.store(to, at.load(from)); });
            }
        });
    });
}

void embedding_backward(const Tensor& dtable, const Tensor& dy, const Tensor& tokens) {
    const std::int64_t C = dy.dim(1);
    const std::int64_t T_rows = tokens.numel();
    const std::int32_t* ids = tokens.data<std::int32_t>();
    with_float(dy.dtype(), [&]<class T>() {
        using A = acc_t<T>;
        const auto row = [&](std::int64_t t) { return dtable.data<A>() + ids[t] * C; };
        parallel_for(C, 64, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t t = 0; t < T_rows; ++t) {
                if (t + 1 < T_rows) prefetch(row(t + 1) + begin, static_cast<std::size_t>(end - begin) * sizeof(A));
                A* out = row(t);
                const T* g = dy.data<T>() + t * C;
                each_vector<A>(begin, end, [=](auto at) { at.store(out, at.load(out) + at.load(g)); });
            }
        });
    });
}

}  // namespace uipe::tensor::cpu
