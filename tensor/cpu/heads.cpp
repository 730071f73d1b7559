// token_logprob, token_kl and token_cross_entropy: the LM head, the softmax and the loss of each row, chunk by chunk.
// Rows that carry no target are dropped before the product, so prompts cost nothing here.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "tensor/cpu/cpu.h"
#include "tensor/cpu/math.h"
#include "tensor/head_rows.h"
#include "tensor/parallel.h"
#include "tensor/workspace.h"

namespace uipe::tensor::cpu {
namespace {

using Rows = std::vector<std::int32_t>;

/// Calls body(rows, n) for consecutive chunks of `rows`.
template <class Body>
void for_each_chunk(const Rows& rows, std::int64_t V, const Body& body) {
    const std::int64_t step = head_chunk(V, Device::Kind::cpu);
    const auto total = static_cast<std::int64_t>(rows.size());
    for (std::int64_t begin = 0; begin < total; begin += step) body(rows.data() + begin, std::min(step, total - begin));
}

/// The chosen rows of x[T,C], together.
Tensor gather(const Tensor& x, const std::int32_t* rows, std::int64_t n) {
    const std::int64_t C = x.dim(1);
    Tensor y = Tensor::empty({n, C}, x.dtype());
    const std::size_t bytes = static_cast<std::size_t>(C) * size_of(x.dtype());
    for (std::int64_t i = 0; i < n; ++i)
        std::memcpy(static_cast<std::byte*>(y.raw()) + static_cast<std::size_t>(i) * bytes,
                    static_cast<const std::byte*>(x.raw()) + static_cast<std::size_t>(rows[i]) * bytes, bytes);
    return y;
}

/// hidden_rows[n,C] w[V,C]^T in the accumulator's type: in the place of `d`, their gradient to be, where that has the
/// type.
Tensor logits_of(const Tensor& hidden_rows, const Tensor& w, const Tensor& d = {}) {
    const DType dtype = accumulator_of(w.dtype());
    const bool shared = d.defined() && d.dtype() == dtype;
    Tensor y = shared ? d : Tensor::empty({hidden_rows.dim(0), w.dim(0)}, dtype);
    cpu::matmul(y, hidden_rows, false, w, true, false);
    return y;
}

/// x[i] *= scale[rows[i]].
void scale_rows(const Tensor& x, const Tensor& scale, const std::int32_t* rows) {
    const std::int64_t C = x.dim(1);
    with_float(x.dtype(), [&]<class T>() {
        using A = acc_t<T>;
        for (std::int64_t i = 0; i < x.dim(0); ++i) {
            T* row = x.data<T>() + i * C;
            const A s = scale.data<A>()[rows[i]];
            for (std::int64_t c = 0; c < C; ++c) row[c] = static_cast<T>(s * static_cast<A>(row[c]));
        }
    });
}

/// y[rows[i]] += scale[rows[i]] x[i]; x is in the accumulator's type of y.
void scatter(const Tensor& y, const Tensor& x, const Tensor& scale, const std::int32_t* rows) {
    const std::int64_t C = x.dim(1);
    with_float(y.dtype(), [&]<class T>() {
        using A = acc_t<T>;
        for (std::int64_t i = 0; i < x.dim(0); ++i) {
            T* out = y.data<T>() + rows[i] * C;
            const A* in = x.data<A>() + i * C;
            const A s = scale.data<A>()[rows[i]];
            for (std::int64_t c = 0; c < C; ++c) out[c] = static_cast<T>(static_cast<A>(out[c]) + s * in[c]);
        }
    });
}

/// Sends the gradient scale[rows[i]] d[i] of n rows of logits on to dhidden and dw. The scale is applied to the factors
/// and results of width C, not to the far larger d[n,V].
void head_gradient(const Tensor& dhidden, const Tensor& dw, const Tensor& scale, const Tensor& d, const Tensor& hidden,
                   const Tensor& w, const std::int32_t* rows) {
    const std::int64_t n = d.dim(0);
    if (dw.defined()) {
        const Tensor h = gather(hidden, rows, n);
        scale_rows(h, scale, rows);
        cpu::matmul(dw, d, true, h, false, true);
    }
    if (!dhidden.defined()) return;
    const Tensor dx = Tensor::empty({n, w.dim(1)}, accumulator_of(w.dtype()));
    cpu::matmul(dx, d, false, w, false, false);
    scatter(dhidden, dx, scale, rows);
}

template <class A>
A largest(const A* x, std::int64_t V) {
    A most = -std::numeric_limits<A>::infinity();
#pragma omp simd reduction(max : most)
    for (std::int64_t v = 0; v < V; ++v) most = most < x[v] ? x[v] : most;
    return most;
}

template <class A>
A log_sum_exp(const A* x, std::int64_t V) {
    const A most = largest(x, V);
    A s = 0;
#pragma omp simd reduction(+ : s)
    for (std::int64_t v = 0; v < V; ++v) s += fast_exp(x[v] - most);
    return most + std::log(s);
}

/// Writes the mean and the variance of log softmax(x)[v] over a v drawn by softmax(x). Sums of the distance from the
/// largest: a constant is no part of the variance, and where one token is sure both sums are near 0. Not inlined:
/// copies for one thread and for many may fuse other products and sums, and differ by a bit.
template <class A>
[[gnu::noinline]] void write_moments(A* moments, const A* x, std::int64_t V) {
    const A most = largest(x, V);
    A total = 0;
    A first = 0;
    A second = 0;
#pragma omp simd reduction(+ : total, first, second)
    for (std::int64_t v = 0; v < V; ++v) {
        const A z = x[v] - most;
        const A e = fast_exp(z);
        total += e;
        first += e * z;
        second += e * z * z;
    }
    const A mean = first / total;
    moments[0] = mean - std::log(total);
    moments[1] = second / total - mean * mean;
}

/// The first place of the largest; 0 where all are NaN or -infinity.
template <class A>
std::int32_t likeliest(const A* x, std::int64_t V) {
    const A* found = std::find(x, x + V, largest(x, V));
    return found == x + V ? 0 : static_cast<std::int32_t>(found - x);
}

/// d = onehot(target) - softmax(x), the gradient of log softmax(x)[target]; returns log_sum_exp(x). x is used up; d may
/// be x. The target's element is the sum of the others: 1 - p has no digit left for a token that the model is sure of.
template <class T, class A>
A target_less_softmax(T* d, A* x, std::int64_t V, std::int32_t target) {
    const A most = largest(x, V);
    const A own = fast_exp(x[target] - most);
    x[target] = -std::numeric_limits<A>::infinity();
    A others = 0;
#pragma omp simd reduction(+ : others)
    for (std::int64_t v = 0; v < V; ++v) {
        x[v] = fast_exp(x[v] - most);
        others += x[v];
    }
    const A share = A{-1} / (own + others);
    for (std::int64_t v = 0; v < V; ++v) d[v] = static_cast<T>(x[v] * share);
    d[target] = static_cast<T>(-others * share);
    return most + std::log(own + others);
}

/// d = softmax(x) - softmax(r), the gradient by x both of KL(softmax(r) || softmax(x)) and of their cross entropy, in
/// which no r is too low; returns the one or the other. d may be x.
template <bool cross_entropy, class T, class A>
A divergence(T* d, const A* x, const A* r, std::int64_t V) {
    const A lse = log_sum_exp(x, V);
    const A lse_ref = log_sum_exp(r, V);
    A s = 0;
#pragma omp simd reduction(+ : s)
    for (std::int64_t v = 0; v < V; ++v) {
        const A p_ref = fast_exp(r[v] - lse_ref);
        s += p_ref * ((cross_entropy ? A{0} : r[v] - lse_ref) - (x[v] - lse));
        d[v] = static_cast<T>(fast_exp(x[v] - lse) - p_ref);
    }
    return s;
}

template <class A>
A log_add(A a, A b) {
    return std::max(a, b) + std::log1p(std::exp(-std::abs(a - b)));
}

/// The cross entropy of softmax(x) against q = softmax(x - lowered onehot(target)), which is constant, and in d its
/// gradient, p_y (1 - e^-lowered) (onehot - q): as a difference p - q it would cancel where p_y is small. The target
/// stands apart from the others, for their exponentials may be nothing beside it. x is used up; d may be x.
template <class T, class A>
A own_cross_entropy(T* d, A* x, std::int64_t V, std::int32_t target, double lowered) {
    const A score = x[target];
    x[target] = -std::numeric_limits<A>::infinity();
    const A others = V > 1 ? log_sum_exp(x, V) : x[target];
    const A label = score - static_cast<A>(lowered);
    const A lse = log_add(others, score);
    const A lse_labels = log_add(others, label);
    const A moved = std::exp(score - lse) * static_cast<A>(-std::expm1(-lowered));
    A s = 0;
#pragma omp simd reduction(+ : s)
    for (std::int64_t v = 0; v < V; ++v) {
        const A q = fast_exp(x[v] - lse_labels);
        s += q > 0 ? q * (lse - x[v]) : A{0};  // not 0 times infinity
        d[v] = static_cast<T>(-moved * q);
    }
    d[target] = static_cast<T>(moved * std::exp(others - lse_labels));
    return s + std::exp(label - lse_labels) * (lse - score);
}

/// Calls body(i) for the rows of a chunk, on all threads.
template <class Body>
void for_each_row(std::int64_t n, const Body& body) {
    parallel_for(n, 4, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) body(i);
    });
}

/// The gradient of the heads: from what the forward pass kept, else from chunks made by compute(d, rows, n).
template <class Compute>
void backward(const Tensor& dhidden, const Tensor& dw, const Tensor& dy, const Tensor& hidden, const Tensor& w,
              const Rows& all, const Tensor& kept, bool accumulate_hidden, const Compute& compute) {
    if (dhidden.defined() && !accumulate_hidden) cpu::fill(dhidden, 0.0);
    if (all.empty()) return;
    if (kept.defined()) return head_gradient(dhidden, dw, dy, kept, hidden, w, all.data());
    for_each_chunk(all, w.dim(0), [&](const std::int32_t* rows, std::int64_t n) {
        head_gradient(dhidden, dw, dy, compute(rows, n), hidden, w, rows);
    });
}

}  // namespace

void token_logprob(const Tensor& logp, const Tensor& hidden, const Tensor& w, const Tensor& targets,
                   const Tensor& argmax, const Tensor& dlogits, const Tensor& moments) {
    const std::int64_t V = w.dim(0);
    const std::int32_t* target = targets.data<std::int32_t>();
    cpu::fill(logp, 0.0);
    if (argmax.defined()) cpu::fill(argmax, -1);
    if (moments.defined()) cpu::fill(moments, 0.0);
    const Rows all = rows_with_target(targets);
    with_float(w.dtype(), [&]<class T>() {
        using A = acc_t<T>;
        for_each_chunk(all, V, [&](const std::int32_t* rows, std::int64_t n) {
            const Tensor h = gather(hidden, rows, n);
            const Tensor d = dlogits.defined() ? dlogits.rows(rows - all.data(), rows - all.data() + n) : Tensor();
            const Tensor scores = logits_of(h, w, d);
            for_each_row(n, [&](std::int64_t i) {
                A* x = scores.data<A>() + i * V;
                const std::int64_t t = rows[i];
                const A score = x[target[t]];
                if (argmax.defined()) argmax.data<std::int32_t>()[t] = likeliest(x, V);
                if (moments.defined()) write_moments(moments.data<A>() + 2 * t, x, V);
                logp.data<A>()[t] = score - (d.defined() ? target_less_softmax(d.data<T>() + i * V, x, V, target[t])
                                                         : log_sum_exp(x, V));
            });
        });
    });
}

void token_logprob_backward(const Tensor& dhidden, const Tensor& dw, const Tensor& dlogp, const Tensor& hidden,
                            const Tensor& w, const Tensor& targets, bool accumulate_hidden, const Tensor& dlogits) {
    const std::int64_t V = w.dim(0);
    const std::int32_t* target = targets.data<std::int32_t>();
    with_float(w.dtype(), [&]<class T>() {
        using A = acc_t<T>;
        const auto compute = [&](const std::int32_t* rows, std::int64_t n) {
            const Tensor d = Tensor::empty({n, V}, w.dtype());
            const Tensor scores = logits_of(gather(hidden, rows, n), w, d);
            for_each_row(n, [&](std::int64_t i) {
                target_less_softmax(d.data<T>() + i * V, scores.data<A>() + i * V, V, target[rows[i]]);
            });
            return d;
        };
        backward(dhidden, dw, dlogp, hidden, w, rows_with_target(targets), dlogits, accumulate_hidden, compute);
    });
}

namespace {

/// What a row is compared with: softmax(hidden W^T), for cross entropies after its target was lowered.
struct Reference {
    const Tensor& hidden;  // undefined: the row itself
    const Tensor& w;
    const Tensor* targets = nullptr;  // none: a divergence
    double lowered = 0;
};

/// Of n rows: divergences or cross entropies into y, where that is defined, and the gradient by the logits into d.
template <class T>
void divergences(const Tensor& y, const Tensor& d, const Tensor& hidden, const Tensor& w, const Reference& ref,
                 const std::int32_t* rows, std::int64_t n) {
    using A = acc_t<T>;
    const std::int64_t V = w.dim(0);
    const Tensor scores = logits_of(gather(hidden, rows, n), w, d);
    const Tensor reference = ref.w.defined() ? logits_of(gather(ref.hidden, rows, n), ref.w) : Tensor();
    const auto compared = [&](std::int64_t i) {
        T* out = d.data<T>() + i * V;
        A* x = scores.data<A>() + i * V;
        A* r = reference.defined() ? reference.data<A>() + i * V : nullptr;
        if (ref.targets == nullptr) return divergence<false>(out, x, r, V);
        const std::int32_t target = ref.targets->data<std::int32_t>()[rows[i]];
        if (r == nullptr) return own_cross_entropy(out, x, V, target, ref.lowered);
        r[target] -= static_cast<A>(ref.lowered);
        return divergence<true>(out, x, r, V);
    };
    for_each_row(n, [&](std::int64_t i) {
        const A s = compared(i);
        if (y.defined()) y.data<A>()[rows[i]] = s;
    });
}

void compare(const Tensor& y, const Tensor& hidden, const Tensor& w, const Reference& ref, const Rows& all,
             const Tensor& dlogits) {
    const std::int64_t V = w.dim(0);
    cpu::fill(y, 0.0);
    with_float(w.dtype(), [&]<class T>() {
        for_each_chunk(all, V, [&](const std::int32_t* rows, std::int64_t n) {
            const std::int64_t first = rows - all.data();
            const Tensor d = dlogits.defined() ? dlogits.rows(first, first + n) : Tensor::empty({n, V}, w.dtype());
            divergences<T>(y, d, hidden, w, ref, rows, n);
        });
    });
}

void compare_backward(const Tensor& dhidden, const Tensor& dw, const Tensor& dy, const Tensor& hidden, const Tensor& w,
                      const Reference& ref, const Rows& all, bool accumulate_hidden, const Tensor& dlogits) {
    with_float(w.dtype(), [&]<class T>() {
        const auto compute = [&](const std::int32_t* rows, std::int64_t n) {
            const Tensor d = Tensor::empty({n, w.dim(0)}, w.dtype());
            divergences<T>({}, d, hidden, w, ref, rows, n);
            return d;
        };
        backward(dhidden, dw, dy, hidden, w, all, dlogits, accumulate_hidden, compute);
    });
}

}  // namespace

void token_kl(const Tensor& kl, const Tensor& hidden, const Tensor& w, const Tensor& hidden_ref, const Tensor& w_ref,
              const Tensor& mask, const Tensor& dlogits) {
    compare(kl, hidden, w, {hidden_ref, w_ref}, rows_in_mask(kl.numel(), mask), dlogits);
}

void token_kl_backward(const Tensor& dhidden, const Tensor& dw, const Tensor& dkl, const Tensor& hidden,
                       const Tensor& w, const Tensor& hidden_ref, const Tensor& w_ref, const Tensor& mask,
                       bool accumulate_hidden, const Tensor& dlogits) {
    compare_backward(dhidden, dw, dkl, hidden, w, {hidden_ref, w_ref}, rows_in_mask(dkl.numel(), mask),
                     accumulate_hidden, dlogits);
}

void token_cross_entropy(const Tensor& ce, const Tensor& hidden, const Tensor& w, const Tensor& hidden_ref,
                         const Tensor& w_ref, const Tensor& targets, double lowered, const Tensor& dlogits) {
    compare(ce, hidden, w, {hidden_ref, w_ref, &targets, lowered}, rows_with_target(targets), dlogits);
}

void token_cross_entropy_backward(const Tensor& dhidden, const Tensor& dw, const Tensor& dce, const Tensor& hidden,
                                  const Tensor& w, const Tensor& hidden_ref, const Tensor& w_ref, const Tensor& targets,
                                  double lowered, bool accumulate_hidden, const Tensor& dlogits) {
    compare_backward(dhidden, dw, dce, hidden, w, {hidden_ref, w_ref, &targets, lowered}, rows_with_target(targets),
                     accumulate_hidden, dlogits);
}

void argmax(const Tensor& y, const Tensor& x) {
    const std::int64_t V = x.dim(1);
    const Tensor wide = x.to(accumulator_of(x.dtype()));
    with_accumulator(wide.dtype(), [&]<class A>() {
        for_each_row(x.dim(0),
                     [&](std::int64_t i) { y.data<std::int32_t>()[i] = likeliest(wide.data<A>() + i * V, V); });
    });
}

}  // namespace uipe::tensor::cpu
