// The differentiable ops. Shapes and types are those of tensor/ops.h, which each one calls; every gradient below is
// checked against central differences in f64 (tests/autograd/ops_test.cpp).
#pragma once

#include <utility>

#include "autograd/variable.h"

namespace uipe::autograd {

// --- Element by element, and sums. Operands have one shape and one type. ---
Variable add(const Variable& a, const Variable& b);
Variable mul(const Variable& a, const Variable& b);
Variable scale(const Variable& x, double a);
/// log(sigmoid(x)).
Variable log_sigmoid(const Variable& x);
/// [1], the sum of all elements.
Variable sum(const Variable& x);
/// Rows [begin, end) of x, in its memory.
Variable rows(const Variable& x, std::int64_t begin, std::int64_t end);
/// d[T] = the squared distance of each row of x[T,C] from that of y[T,C], or [1,C]; y is constant.
Variable squared_distance(const Variable& x, const Tensor& y);
/// y[B] = sums of x[T] over each sequence.
Variable segment_sum(const Variable& x, const Tensor& cu_seqlens);

// --- Layers ---
/// y[T,N] = x[T,C] w[N,C]^T.
Variable linear(const Variable& x, const Variable& w);
/// y[T,C] = table[V,C] at tokens[T].
Variable embedding(const Variable& table, const Tensor& tokens);
/// y[T,C] = x / sqrt(mean(x²) + eps) * w[C].
Variable rmsnorm(const Variable& x, const Variable& w, double eps);
/// {h, rmsnorm(h)} of h[T,C] = x + r, in one pass over memory.
std::pair<Variable, Variable> add_rmsnorm(const Variable& x, const Variable& r, const Variable& w, double eps);
/// y[T,F] = silu(gate) * up.
Variable swiglu(const Variable& gate, const Variable& up);
/// x[T,heads*D] rotated by positions[T].
Variable rope(const Variable& x, const Tensor& positions, std::int64_t head_dim, double theta);
/// out[T,H*D] from q[T,H*D], k and v[T,K*D]: causal, within each sequence.
Variable attention(const Variable& q, const Variable& k, const Variable& v, const Tensor& cu_seqlens,
                   std::int64_t head_dim);

/// x[T,C] with each element dropped with probability p, the others made larger for it; the mask is that of
/// tensor::dropout, made again where it is needed. p = 0 is x itself.
Variable dropout(const Variable& x, const Tensor& places, double p, std::uint64_t seed, std::uint64_t stream);

// --- Heads ---
/// logp[T] of targets[T] under softmax(hidden[T,C] w[V,C]^T); 0 where targets[t] < 0.
Variable token_logprob(const Variable& hidden, const Variable& w, const Tensor& targets);
/// kl[T] = KL(reference || current) row by row; the reference is constant. Rows with mask 0 give 0.
Variable token_kl(const Variable& hidden, const Variable& w, const Tensor& hidden_ref, const Tensor& w_ref,
                  const Tensor& mask = {});
/// ce[T] of the model against softmax(hidden_ref w_ref^T - lowered onehot(target)), which is constant, also where it is
/// of hidden and w themselves (undefined references); 0 where targets[t] < 0.
Variable token_cross_entropy(const Variable& hidden, const Variable& w, const Tensor& hidden_ref, const Tensor& w_ref,
                             const Tensor& targets, double lowered);

// --- Memory for time ---
/// f(x), keeping only x: the backward pass computes f again (Chen et al. 2016), once, also for the ops that read f(x).
/// f may read parameters; their gradients are accumulated as usual. f must give the same value both times.
Variable checkpoint(const std::function<Variable(const Variable&)>& f, const Variable& x);

}  // namespace uipe::autograd
