// RMSNorm, SwiGLU and the embedding table.
#include <cmath>
#include <cstring>

#include "tensor/cpu/cpu.h"
#include "tensor/cpu/math.h"
#include "tensor/cpu/simd.h"
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
                Vector<A> squares{};
                each_vector<A>(0, C, [&](auto at) { squares += at.load(in) * at.load(in); });
                const A r = A{1} / std::sqrt(sum_of(squares) / static_cast<A>(C) + static_cast<A>(eps));
                rstd.data<A>()[t] = r;
                each_vector<A>(0, C, [&](auto at) { at.store(out, at.load(in) * r * at.load(weight)); });
            }
        });
    });
}

namespace {

/// The gradient of one row: dx (+)=, unless it is nullptr, and dw += dy x rstd.
template <class T>
void rmsnorm_row(T* dx, acc_t<T>* dw, const T* dy, const T* x, const T* w, acc_t<T> rstd, std::int64_t C,
                 bool accumulate) {
    using A = acc_t<T>;
    Vector<A> dots{};
    each_vector<A>(0, C, [&](auto at) {
        const auto g = at.load(dy);
        const auto v = at.load(x);
        dots += g * at.load(w) * v;
        if (dw != nullptr) at.store(dw, at.load(dw) + g * v * rstd);
    });
    if (dx == nullptr) return;
    const A shift = sum_of(dots) * rstd * rstd * rstd / static_cast<A>(C);
    each_vector<A>(0, C, [&](auto at) {
        const auto d = at.load(dy) * at.load(w) * rstd - at.load(x) * shift;
        at.store(dx, accumulate ? at.load(dx) + d : d);
    });
}

}  // namespace

void rmsnorm_backward(const Tensor& dx, const Tensor& dw, const Tensor& dy, const Tensor& x, const Tensor& w,
                      const Tensor& rstd, bool accumulate_dx) {
    // dw is summed over blocks of rows, and the blocks' sums in their order: the same for any number of threads.
    constexpr std::int64_t block = 64;
    const std::int64_t T_rows = x.dim(0);
    const std::int64_t C = x.dim(1);
    const std::int64_t blocks = ceil_div(T_rows, block);
    with_float(x.dtype(), [&]<class T>() {
        using A = acc_t<T>;
        const Tensor sums = dw.defined() ? Tensor::zeros({blocks, C}, accumulator_of(x.dtype())) : Tensor();
        parallel_for(blocks, 1, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t t = begin * block; t < std::min(T_rows, end * block); ++t)
                rmsnorm_row(dx.defined() ? dx.data<T>() + t * C : nullptr,
                            dw.defined() ? sums.data<A>() + t / block * C : nullptr, dy.data<T>() + t * C,
                            x.data<T>() + t * C, w.data<T>(), rstd.data<A>()[t], C, accumulate_dx);
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
        parallel_vectors<acc_t<T>>(y.numel(), [=](auto at) {
            const auto a = at.load(g);
            at.store(out, a * sigmoid(a) * at.load(u));
        });
    });
}

void swiglu_backward(const Tensor& dgate, const Tensor& dup, const Tensor& dy, const Tensor& gate, const Tensor& up,
                     bool accumulate_gate, bool accumulate_up) {
    with_float(dy.dtype(), [&]<class T>() {
        const T* g = gate.data<T>();
        const T* u = up.data<T>();
        const T* d = dy.data<T>();
        T* dg = dgate.data<T>();
        T* du = dup.data<T>();
        parallel_vectors<acc_t<T>>(dy.numel(), [=](auto at) {
            const auto a = at.load(g);
            const auto s = sigmoid(a);
            const auto grad = at.load(d);
            const auto to_gate = grad * at.load(u) * s * (a * (1 - s) + 1);
            const auto to_up = grad * a * s;
            at.store(dg, accumulate_gate ? at.load(dg) + to_gate : to_gate);
            at.store(du, accumulate_up ? at.load(du) + to_up : to_up);
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
        parallel_for(C, 64, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t t = 0; t < tokens.numel(); ++t) {
                A* out = dtable.data<A>() + ids[t] * C;
                const T* g = dy.data<T>() + t * C;
                each_vector<A>(begin, end, [&](auto at) { at.store(out, at.load(out) + at.load(g)); });
            }
        });
    });
}

}  // namespace uipe::tensor::cpu
