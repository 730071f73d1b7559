#include "tensor/greedy_head.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tensor/cpu/cpu.h"
#include "tensor/cpu/simd.h"
#include "tensor/ops.h"
#include "tensor/parallel.h"

namespace uipe::tensor {
namespace {

using cpu::acc_t;

constexpr std::int64_t slice_tokens = 2048;  // logits of a slice and some 100 rows stay in the cache
constexpr std::int64_t block_tokens = 64;    // screened together: of a block only the largest logit is kept

/// a[n] . b[n], in an order that depends on n alone.
template <class T>
acc_t<T> dot(const T* a, const T* b, std::int64_t n) {
    using A = acc_t<T>;
    cpu::Vector<A> sums{};
    cpu::each_vector<A>(0, n, [&](auto at) { sums += at.load(a) * at.load(b); });
    return cpu::sum_of(sums);
}

struct Norms {
    double whole, rounded_off;
};

/// |x| and |x - x'| of a row and what the screen has of it.
template <class T, class S>
Norms norms(const T* x, const S* rounded, std::int64_t n) {
    using A = acc_t<T>;
    cpu::Vector<A> whole{};
    cpu::Vector<A> off{};
    cpu::each_vector<A>(0, n, [&](auto at) {
        const auto value = at.load(x);
        const auto difference = value - at.load(rounded);
        whole += value * value;
        off += difference * difference;
    });
    return {std::sqrt(static_cast<double>(cpu::sum_of(whole))), std::sqrt(static_cast<double>(cpu::sum_of(off)))};
}

/// norms() of every row of x[n,C].
std::vector<Norms> norms(const Tensor& x, const Tensor& rounded) {
    const std::int64_t C = x.dim(1);
    std::vector<Norms> out(static_cast<std::size_t>(x.dim(0)));
    const auto all = [&]<class T, class S>() {
        parallel_for(x.dim(0), 64, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t i = begin; i < end; ++i)
                out[static_cast<std::size_t>(i)] = norms(x.data<T>() + i * C, rounded.data<S>() + i * C, C);
        });
    };
    cpu::with_float(x.dtype(), [&]<class T>() {
        if (rounded.dtype() == x.dtype())
            all.template operator()<T, T>();
        else if constexpr (std::is_same_v<T, float>)
            all.template operator()<float, bf16>();
    });
    return out;
}

DType screen_of(DType dtype) {
#if defined(__AVX512BF16__)
    return dtype == DType::f32 ? DType::bf16 : dtype;
#else
    return dtype;
#endif
}

/// The largest of x[n], not counting NaN; -infinity where there is none.
template <class A>
A largest(const A* x, std::int64_t n) {
    A most = -std::numeric_limits<A>::infinity();
#pragma omp simd reduction(max : most)
    for (std::int64_t i = 0; i < n; ++i) most = most < x[i] ? x[i] : most;
    return most;
}

/// The largest screened logit of every block of tokens, [T, blocks].
template <class A>
std::vector<A> largest_of_blocks(const Tensor& hidden, const std::vector<PackedMatrix>& slices, std::int64_t blocks) {
    const std::int64_t T = hidden.dim(0);
    std::vector<A> out(static_cast<std::size_t>(T * blocks));
    std::int64_t first = 0;
    for (const PackedMatrix& slice : slices) {
        const std::int64_t n = slice.weight().dim(0);
        const Tensor scores = Tensor::empty({T, n}, accumulator_of(hidden.dtype()));
        slice.multiply(scores, hidden);
        parallel_for(T, 8, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t t = begin; t < end; ++t)
                for (std::int64_t v = 0; v < n; v += block_tokens)
                    out[static_cast<std::size_t>(t * blocks + first + v / block_tokens)] =
                        largest(scores.data<A>() + t * n + v, std::min(block_tokens, n - v));
        });
        first += ceil_div(n, block_tokens);
    }
    return out;
}

/// The first of the largest logits among the blocks whose screened ones reach `low`.
template <class T>
std::int32_t likeliest_of(const T* hidden, const Tensor& w, const acc_t<T>* blocks, double low) {
    using A = acc_t<T>;
    const std::int64_t V = w.dim(0);
    const std::int64_t C = w.dim(1);
    A most = -std::numeric_limits<A>::infinity();
    std::int64_t at = 0;
    for (std::int64_t begin = 0; begin < V; begin += block_tokens) {
        if (static_cast<double>(blocks[begin / block_tokens]) < low) continue;  // none is less than a NaN
        for (std::int64_t v = begin; v < std::min(begin + block_tokens, V); ++v) {
            const A logit = dot(hidden, w.data<T>() + v * C, C);
            if (logit > most) {
                most = logit;
                at = v;
            }
        }
    }
    return static_cast<std::int32_t>(at);
}

}  // namespace

GreedyHead::GreedyHead(const Tensor& w, bool pack) : w_(w), screen_(pack ? screen_of(w.dtype()) : w.dtype()) {
    if (w.device() != Device{}) return;
    for (std::int64_t v = 0; v < w.dim(0); v += slice_tokens) {
        const Tensor slice = w.rows(v, std::min(v + slice_tokens, w.dim(0)));
        const Tensor rounded = slice.to(screen_);
        for (const Norms& row : norms(slice, rounded)) {
            norm_ = std::max(norm_, row.whole);
            rounded_off_ = std::max(rounded_off_, row.rounded_off);
        }
        slices_.emplace_back(rounded, pack);
    }
}

Tensor GreedyHead::likeliest(const Tensor& hidden) const {
    const std::int64_t T = hidden.dim(0);
    const std::int64_t C = hidden.dim(1);
    const std::int64_t blocks = ceil_div(w_.dim(0), block_tokens);
    const Tensor out = Tensor::empty({T}, DType::i32);
    if (w_.device() != Device{}) {
        const Tensor scores = Tensor::empty({T, w_.dim(0)}, accumulator_of(w_.dtype()), w_.device());
        logits(scores, hidden, w_);
        argmax(out, scores);
        return out;
    }
    const Tensor rounded = hidden.to(screen_);
    const std::vector<Norms> of_rows = norms(hidden, rounded);
    cpu::with_float(hidden.dtype(), [&]<class E>() {
        using A = acc_t<E>;
        const std::vector<A> most = largest_of_blocks<A>(rounded, slices_, blocks);
        // Both sums of C products, the screen's and the exact one's, round at each term.
        const double roundings = 2.0 * static_cast<double>(C) * std::numeric_limits<A>::epsilon();
        parallel_for(T, 8, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t t = begin; t < end; ++t) {
                const Norms& h = of_rows[static_cast<std::size_t>(t)];
                const double error =
                    h.rounded_off * norm_ + (h.whole + h.rounded_off) * rounded_off_ + roundings * h.whole * norm_;
                const A* row = most.data() + t * blocks;
                const A highest = largest(row, blocks);
                const bool none = highest == -std::numeric_limits<A>::infinity();
                out.data<std::int32_t>()[t] =
                    none ? 0
                         : likeliest_of(hidden.data<E>() + t * C, w_, row, static_cast<double>(highest) - 2 * error);
            }
        });
    });
    return out;
}

}  // namespace uipe::tensor
