// token_logprob and token_kl: the LM head, the softmax and the loss of each row, chunk by chunk. Rows that carry no
// target are dropped before the product, so prompts cost nothing here.
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "tensor/cpu/cpu.h"
#include "tensor/cpu/math.h"
#include "tensor/parallel.h"

namespace uipe::tensor::cpu {
namespace {

constexpr std::int64_t chunk_elements = std::int64_t{1} << 22;  // logits held at once

using Rows = std::vector<std::int64_t>;

/// The rows t of [0, T) with keep(t).
template <class Keep>
Rows rows_where(std::int64_t T, const Keep& keep) {
    Rows rows;
    for (std::int64_t t = 0; t < T; ++t)
        if (keep(t)) rows.push_back(t);
    return rows;
}

Rows rows_with_target(const Tensor& targets) {
    const std::int32_t* target = targets.data<std::int32_t>();
    return rows_where(targets.numel(), [target](std::int64_t t) { return target[t] >= 0; });
}

Rows rows_in_mask(std::int64_t T, const Tensor& mask) {
    const std::int32_t* keep = mask.defined() ? mask.data<std::int32_t>() : nullptr;
    return rows_where(T, [keep](std::int64_t t) { return keep == nullptr || keep[t] != 0; });
}

/// Calls body(rows, n) for consecutive chunks of `rows` whose logits fit the chunk.
template <class Body>
void for_each_chunk(const Rows& rows, std::int64_t V, const Body& body) {
    const std::int64_t step = std::max<std::int64_t>(16, chunk_elements / V);
    const auto total = static_cast<std::int64_t>(rows.size());
    for (std::int64_t begin = 0; begin < total; begin += step) body(rows.data() + begin, std::min(step, total - begin));
}

/// The chosen rows of x[T,C], together.
Tensor gather(const Tensor& x, const std::int64_t* rows, std::int64_t n) {
    const std::int64_t C = x.dim(1);
    Tensor y = Tensor::empty({n, C}, x.dtype());
    const std::size_t bytes = static_cast<std::size_t>(C) * size_of(x.dtype());
    for (std::int64_t i = 0; i < n; ++i)
        std::memcpy(static_cast<std::byte*>(y.raw()) + static_cast<std::size_t>(i) * bytes,
                    static_cast<const std::byte*>(x.raw()) + static_cast<std::size_t>(rows[i]) * bytes, bytes);
    return y;
}

/// y[rows[i]] += x[i].
void scatter(const Tensor& y, const Tensor& x, const std::int64_t* rows, std::int64_t n) {
    const std::int64_t C = x.dim(1);
    with_float(x.dtype(), [&]<class T>() {
        using A = acc_t<T>;
        for (std::int64_t i = 0; i < n; ++i) {
            T* out = y.data<T>() + rows[i] * C;
            const T* in = x.data<T>() + i * C;
            for (std::int64_t c = 0; c < C; ++c)
                out[c] = static_cast<T>(static_cast<A>(out[c]) + static_cast<A>(in[c]));
        }
    });
}

Tensor logits_of(const Tensor& hidden_rows, const Tensor& w) {
    Tensor y = Tensor::empty({hidden_rows.dim(0), w.dim(0)}, accumulator_of(w.dtype()));
    cpu::matmul(y, hidden_rows, false, w, true, false);
    return y;
}

template <class A>
A log_sum_exp(const A* x, std::int64_t V) {
    A most = -std::numeric_limits<A>::infinity();
#pragma omp simd reduction(max : most)
    for (std::int64_t v = 0; v < V; ++v) most = std::max(most, x[v]);
    A s = 0;
#pragma omp simd reduction(+ : s)
    for (std::int64_t v = 0; v < V; ++v) s += fast_exp(x[v] - most);
    return most + std::log(s);
}

/// Sends dlogits[n,V] of one chunk on to dhidden and dw.
void head_gradient(const Tensor& dhidden, const Tensor& dw, const Tensor& dlogits, const Tensor& hidden_rows,
                   const Tensor& w, const std::int64_t* rows, std::int64_t n) {
    const Tensor d = dlogits.to(w.dtype());
    if (dw.defined()) cpu::matmul(dw, d, true, hidden_rows, false, true);
    if (!dhidden.defined()) return;
    const Tensor dx = Tensor::empty({n, w.dim(1)}, w.dtype());
    cpu::matmul(dx, d, false, w, false, false);
    scatter(dhidden, dx, rows, n);
}

}  // namespace

void token_logprob(const Tensor& logp, const Tensor& lse, const Tensor& hidden, const Tensor& w, const Tensor& targets,
                   const Tensor& argmax) {
    const std::int64_t V = w.dim(0);
    const std::int32_t* target = targets.data<std::int32_t>();
    cpu::fill(logp, 0.0);
    cpu::fill(lse, 0.0);
    if (argmax.defined()) cpu::fill(argmax, -1);
    with_accumulator(logp.dtype(), [&]<class A>() {
        for_each_chunk(rows_with_target(targets), V, [&](const std::int64_t* rows, std::int64_t n) {
            const Tensor scores = logits_of(gather(hidden, rows, n), w);
            parallel_for(n, 4, [&](std::int64_t begin, std::int64_t end) {
                for (std::int64_t i = begin; i < end; ++i) {
                    const A* x = scores.data<A>() + i * V;
                    const A l = log_sum_exp(x, V);
                    lse.data<A>()[rows[i]] = l;
                    logp.data<A>()[rows[i]] = x[target[rows[i]]] - l;
                    if (argmax.defined())
                        argmax.data<std::int32_t>()[rows[i]] =
                            static_cast<std::int32_t>(std::max_element(x, x + V) - x);
                }
            });
        });
    });
}

void token_logprob_backward(const Tensor& dhidden, const Tensor& dw, const Tensor& dlogp, const Tensor& hidden,
                            const Tensor& w, const Tensor& targets, const Tensor& lse, bool accumulate_hidden) {
    const std::int64_t V = w.dim(0);
    const std::int32_t* target = targets.data<std::int32_t>();
    if (dhidden.defined() && !accumulate_hidden) cpu::fill(dhidden, 0.0);
    with_accumulator(lse.dtype(), [&]<class A>() {
        for_each_chunk(rows_with_target(targets), V, [&](const std::int64_t* rows, std::int64_t n) {
            const Tensor h = gather(hidden, rows, n);
            const Tensor d = logits_of(h, w);
            parallel_for(n, 4, [&](std::int64_t begin, std::int64_t end) {
                for (std::int64_t i = begin; i < end; ++i) {
                    A* x = d.data<A>() + i * V;
                    const A g = dlogp.data<A>()[rows[i]];
                    const A l = lse.data<A>()[rows[i]];
                    for (std::int64_t v = 0; v < V; ++v) x[v] = -g * fast_exp(x[v] - l);
                    x[target[rows[i]]] += g;
                }
            });
            head_gradient(dhidden, dw, d, h, w, rows, n);
        });
    });
}

void token_kl(const Tensor& kl, const Tensor& lse, const Tensor& lse_ref, const Tensor& hidden, const Tensor& w,
              const Tensor& hidden_ref, const Tensor& w_ref, const Tensor& mask) {
    const std::int64_t V = w.dim(0);
    cpu::fill(kl, 0.0);
    cpu::fill(lse, 0.0);
    cpu::fill(lse_ref, 0.0);
    with_accumulator(kl.dtype(), [&]<class A>() {
        for_each_chunk(rows_in_mask(kl.numel(), mask), V, [&](const std::int64_t* rows, std::int64_t n) {
            const Tensor scores = logits_of(gather(hidden, rows, n), w);
            const Tensor reference = logits_of(gather(hidden_ref, rows, n), w_ref);
            parallel_for(n, 4, [&](std::int64_t begin, std::int64_t end) {
                for (std::int64_t i = begin; i < end; ++i) {
                    const A* x = scores.data<A>() + i * V;
                    const A* r = reference.data<A>() + i * V;
                    const A l = log_sum_exp(x, V);
                    const A l_ref = log_sum_exp(r, V);
                    A s = 0;
#pragma omp simd reduction(+ : s)
                    for (std::int64_t v = 0; v < V; ++v) s += fast_exp(r[v] - l_ref) * ((r[v] - l_ref) - (x[v] - l));
                    kl.data<A>()[rows[i]] = s;
                    lse.data<A>()[rows[i]] = l;
                    lse_ref.data<A>()[rows[i]] = l_ref;
                }
            });
        });
    });
}

void token_kl_backward(const Tensor& dhidden, const Tensor& dw, const Tensor& dkl, const Tensor& hidden,
                       const Tensor& w, const Tensor& hidden_ref, const Tensor& w_ref, const Tensor& lse,
                       const Tensor& lse_ref, const Tensor& mask, bool accumulate_hidden) {
    const std::int64_t V = w.dim(0);
    if (dhidden.defined() && !accumulate_hidden) cpu::fill(dhidden, 0.0);
    with_accumulator(lse.dtype(), [&]<class A>() {
        for_each_chunk(rows_in_mask(dkl.numel(), mask), V, [&](const std::int64_t* rows, std::int64_t n) {
            const Tensor h = gather(hidden, rows, n);
            const Tensor d = logits_of(h, w);
            const Tensor reference = logits_of(gather(hidden_ref, rows, n), w_ref);
            parallel_for(n, 4, [&](std::int64_t begin, std::int64_t end) {
                for (std::int64_t i = begin; i < end; ++i) {
                    A* x = d.data<A>() + i * V;
                    const A* r = reference.data<A>() + i * V;
                    const A g = dkl.data<A>()[rows[i]];
                    const A l = lse.data<A>()[rows[i]];
                    const A l_ref = lse_ref.data<A>()[rows[i]];
                    for (std::int64_t v = 0; v < V; ++v) x[v] = g * (fast_exp(x[v] - l) - fast_exp(r[v] - l_ref));
                }
            });
            head_gradient(dhidden, dw, d, h, w, rows, n);
        });
    });
}

}  // namespace uipe::tensor::cpu
