// Every operation on tensors, declared once. Shapes use the house letters:
// B sequences, T packed tokens, C width, H query heads, K key/value heads, D head size, F feed-forward width, V
// vocabulary.
//
// Conventions:
// * Outputs are allocated by the caller and come first. Types: f64, f32, bf16 ("float" below); index tensors are i32.
// * `accumulate` adds to the output instead of overwriting it. Unless said otherwise every operand has one float type.
// * Sums are kept in f64 for f64 and in f32 for f32 and bf16, in an order that depends on nothing but the shapes. (For
//   the products of oneDNN that is tested for 1, 2 and 4 threads, in the shapes of training steps, where
//   products_keep_bits(); of bf16 it may elsewhere cut their sums by the number of threads.)
// * Gradients of parameters are f32 for f32 and bf16 parameters, f64 for f64 ("acc" below).
// * A packed batch is rows of T with cu_seqlens[B+1]: sequence b owns rows [cu_seqlens[b], cu_seqlens[b+1]).
// Errors: Error names the op and the shapes or types that disagree.
#pragma once

#include "tensor/tensor.h"

namespace uipe::tensor {

// --- Element by element -------------------------------------------------------------------------------------------

void fill(const Tensor& y, double value);
/// y = x, converting between float types; of one type, the bits.
void copy(const Tensor& y, const Tensor& x);
/// y = a x + b y. x and y may differ in float type.
void axpby(const Tensor& y, double a, const Tensor& x, double b);
/// y (+)= a * b.
void mul(const Tensor& y, const Tensor& a, const Tensor& b, bool accumulate = false);
/// y = x + r.
void add(const Tensor& y, const Tensor& x, const Tensor& r);
/// y = log(sigmoid(x)), stable at both ends.
void log_sigmoid(const Tensor& y, const Tensor& x);
/// dx (+)= dy * sigmoid(-x).
void log_sigmoid_backward(const Tensor& dx, const Tensor& dy, const Tensor& x, bool accumulate);
/// y = p^a (1 - p)^b of p = exp(logp), logp <= 0; 0^0 is 1. 1 - p keeps its digits where p is near 1.
void probability_weights(const Tensor& y, const Tensor& logp, double a, double b);

// --- Sums ---------------------------------------------------------------------------------------------------------

/// y[1] = sum of x, fixed order.
void sum(const Tensor& y, const Tensor& x);
/// dx (+)= dy[1] in every element. dx and dy may differ in float type.
void sum_backward(const Tensor& dx, const Tensor& dy, bool accumulate);
/// y[1] (f64) += the sum of squares of x, in f64, fixed order.
void add_squares(const Tensor& y, const Tensor& x);
/// The sum of squares of x alone, on the host: waits for a device.
double sum_of_squares(const Tensor& x);
/// Whether every element is finite. Waits for a device.
bool all_finite(const Tensor& x);
/// d[T] (acc) = sum over c of (x[t,c] - y[t,c])²; y is [T,C], or one row [1,C] for all.
void squared_distance(const Tensor& d, const Tensor& x, const Tensor& y);
/// dx[T,C] (+)= 2 dd[t] (x - y).
void squared_distance_backward(const Tensor& dx, const Tensor& dd, const Tensor& x, const Tensor& y, bool accumulate);
/// y[B] = sums of x[T] over the rows of each sequence.
void segment_sum(const Tensor& y, const Tensor& x, const Tensor& cu_seqlens);
/// dx[T] (+)= dy[b] for each row of sequence b.
void segment_sum_backward(const Tensor& dx, const Tensor& dy, const Tensor& cu_seqlens, bool accumulate);

// --- Matrix products ----------------------------------------------------------------------------------------------

/// y[M,N] (+)= op(a) op(b), op(x) = x or its transpose. a and b have one float type; y has it or its acc type.
/// oneDNN in f32 and bf16 (which goes by f32 where the processor does not multiply it); a plain loop in f64, for
/// gradient checks.
void matmul(const Tensor& y, const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b,
            bool accumulate = false);

/// Whether oneDNN's products of this type give the same bits for any number of threads here. Not of bf16 with AMX,
/// where it gives threads parts of some sums: ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 in the environment leaves AMX and a
/// part of the speed alone, and keeps the bits.
bool products_keep_bits(DType dtype);

// --- Layers -------------------------------------------------------------------------------------------------------

/// y[T,C] = table[V,C] at tokens[T].
void embedding(const Tensor& y, const Tensor& table, const Tensor& tokens);
/// dtable[V,C] (acc) += dy[T,C] summed over the rows of each token, in order of rows.
void embedding_backward(const Tensor& dtable, const Tensor& dy, const Tensor& tokens);

/// y[T,C] = x * rstd * w, rstd[T] (acc) = 1/sqrt(mean(x²) + eps) (Zhang & Sennrich 2019).
void rmsnorm(const Tensor& y, const Tensor& rstd, const Tensor& x, const Tensor& w, double eps);
/// h[T,C] = x + r and y = rmsnorm(h), in one pass over memory: the bits of add() and rmsnorm().
void add_rmsnorm(const Tensor& h, const Tensor& y, const Tensor& rstd, const Tensor& x, const Tensor& r,
                 const Tensor& w, double eps);
/// dx[T,C] (+)= …; dw[C] (acc) += ….
void rmsnorm_backward(const Tensor& dx, const Tensor& dw, const Tensor& dy, const Tensor& x, const Tensor& w,
                      const Tensor& rstd, bool accumulate_dx);

/// y[T,F] = silu(gate) * up (Shazeer 2020).
void swiglu(const Tensor& y, const Tensor& gate, const Tensor& up);
/// dgate, dup (+)= the gradient.
void swiglu_backward(const Tensor& dgate, const Tensor& dup, const Tensor& dy, const Tensor& gate, const Tensor& up,
                     bool accumulate_gate, bool accumulate_up);

/// y[T,heads*D] = x rotated by its positions[T]: element i of a head pairs with i + D/2 (the half-split layout of
/// Hugging Face), by angle position * theta^(-2i/D) (Su et al. 2021). `inverse` turns back, which is the gradient.
void rope(const Tensor& y, const Tensor& x, const Tensor& positions, std::int64_t head_dim, double theta, bool inverse,
          bool accumulate = false);

/// InputError when a device cannot compute a model of such heads in this type, or an environment variable that it goes
/// by has no meaning: known before anything is written.
void check_device(Device device, DType dtype, std::int64_t head_dim);

/// Causal attention within each sequence, grouped heads: query head h reads key/value head h / (H/K).
/// out[T,H*D], lse[T,H] (acc) from q[T,H*D] at cu_queries[B+1] and k, v[S,K*D] at cu_keys[B+1]; scores are scaled by
/// 1/sqrt(D). The queries of a sequence are those of its last keys: query i of n, beside m >= n keys, sees keys 0 to
/// m - n + i. A whole sequence passes the same offsets twice. Memory O(T).
void attention(const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v,
               const Tensor& cu_queries, const Tensor& cu_keys, std::int64_t head_dim);
/// dq, dk, dv (+)= the gradient where queries and keys have the same offsets; recomputes probabilities from lse (Dao et
/// al. 2022, algorithm 4).
void attention_backward(const Tensor& dq, const Tensor& dk, const Tensor& dv, const Tensor& dout, const Tensor& q,
                        const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
                        const Tensor& cu_seqlens, std::int64_t head_dim, bool accumulate_q, bool accumulate_k,
                        bool accumulate_v);

/// One new token a row against a cache: out[B,H*D] from q[B,H*D]; cache_k, cache_v [S, capacity, K*D];
/// row b reads slot slots[b], the first lengths[b] positions (its own key and value included).
void attention_decode(const Tensor& out, const Tensor& q, const Tensor& cache_k, const Tensor& cache_v,
                      const Tensor& slots, const Tensor& lengths, std::int64_t head_dim);
/// cache[slots[t], positions[t]] = x[t] for each row of x[T,K*D].
void cache_write(const Tensor& cache, const Tensor& x, const Tensor& slots, const Tensor& positions);

// --- The heads ----------------------------------------------------------------------------------------------------
//
// Logits exist for one chunk of rows at a time, unless their gradient is kept: that is what a backward pass starts
// from. `dlogits`, when given to the forward pass, receives it for each row that is not skipped, [n,V] in the type of
// w, and given to the backward pass it saves the product, the softmax and the exponentials that would make it again: n
// V elements of memory for a quarter of the head's time.

/// The rows that token_logprob does not skip: those with targets[t] >= 0.
std::int64_t num_targets(const Tensor& targets);
/// The rows of T that token_kl does not skip: all without a mask, else those it marks.
std::int64_t num_taken(const Tensor& mask, std::int64_t T);

/// logp[T] (acc) = log softmax(hidden[T,C] W[V,C]^T)[targets[t]]; 0 where targets[t] < 0, and those rows cost nothing.
/// `argmax`, when defined, is i32 [T]: the likeliest token, as argmax() finds it (-1 where no target).
/// `moments`, when defined, is acc [T,2]: mean and variance of log p(v) over a v drawn by p (0 and 0 where no target).
void token_logprob(const Tensor& logp, const Tensor& hidden, const Tensor& w, const Tensor& targets,
                   const Tensor& argmax = {}, const Tensor& dlogits = {}, const Tensor& moments = {});
/// dhidden[T,C] (+)=, dw[V,C] (acc) += the gradient of sum_t dlogp[t] logp[t]. Undefined outputs are not computed.
void token_logprob_backward(const Tensor& dhidden, const Tensor& dw, const Tensor& dlogp, const Tensor& hidden,
                            const Tensor& w, const Tensor& targets, bool accumulate_hidden, const Tensor& dlogits = {});

/// kl[T] (acc) = KL(softmax(hidden_ref W_ref^T) || softmax(hidden W^T)) row by row.
/// Rows with mask[t] == 0 (i32) are skipped and give 0; an undefined mask takes all rows.
void token_kl(const Tensor& kl, const Tensor& hidden, const Tensor& w, const Tensor& hidden_ref, const Tensor& w_ref,
              const Tensor& mask = {}, const Tensor& dlogits = {});
/// The gradient with respect to hidden and w; the reference is a constant.
void token_kl_backward(const Tensor& dhidden, const Tensor& dw, const Tensor& dkl, const Tensor& hidden,
                       const Tensor& w, const Tensor& hidden_ref, const Tensor& w_ref, const Tensor& mask,
                       bool accumulate_hidden, const Tensor& dlogits = {});

/// ce[T] (acc) = -sum_v q_v log p_v of p = softmax(hidden W^T) against the constant q = softmax(hidden_ref W_ref^T -
/// lowered onehot(targets[t])): soft labels (Hinton et al. 2015), of hidden and W themselves where both are undefined;
/// infinity leaves the target out, for V > 1. Rows with targets[t] < 0 are skipped and give 0.
void token_cross_entropy(const Tensor& ce, const Tensor& hidden, const Tensor& w, const Tensor& hidden_ref,
                         const Tensor& w_ref, const Tensor& targets, double lowered, const Tensor& dlogits = {});
/// The gradient with respect to hidden and w, p - q on its way through the logits.
void token_cross_entropy_backward(const Tensor& dhidden, const Tensor& dw, const Tensor& dce, const Tensor& hidden,
                                  const Tensor& w, const Tensor& hidden_ref, const Tensor& w_ref, const Tensor& targets,
                                  double lowered, bool accumulate_hidden, const Tensor& dlogits = {});

/// logits[T,V] (acc) = hidden[T,C] W[V,C]^T. For sampling, a few rows at a time.
void logits(const Tensor& out, const Tensor& hidden, const Tensor& w);
/// y[R] (i32, on the host) = the place of the largest of each row of x[R,V], the first of equals; NaN is passed over,
/// and a row of nothing but NaN and -infinity gives 0. Waits for a device.
void argmax(const Tensor& y, const Tensor& x);

// --- The optimizer ------------------------------------------------------------------------------------------------

struct AdamWStep {
    double lr = 1e-3;
    double beta1 = 0.9;
    double beta2 = 0.999;
    double eps = 1e-8;
    double weight_decay = 0.0;
    std::int64_t step = 1;  // counts from 1
    // Clipping, as PyTorch's clip_grad_norm_: the gradient is first multiplied by min(1, max_norm / (norm + 1e-6)).
    Tensor squares = {};    // norm² of the whole gradient, f64[1]; undefined: no clipping
    double max_norm = 0.0;  // 0: no clipping
    // Moments of bf16 are rounded stochastically (rounding.h), by bits of the element, of `step` and of
    std::uint64_t seed = 0, stream = 0;  // the run and the parameter, of which
    std::int64_t first = 0;              // the first element here is this one
};

/// One AdamW step (Loshchilov & Hutter 2019) on weights w, with m, v and grad of the accumulator's type. The same bits
/// on every device. Weights of bf16 are stepped as f32 masters, of which `rest` holds what w does not (master.h);
/// undefined otherwise. m and v may be bf16 beside a gradient of f32, of at most 2^32 elements: the step is that of
/// f32, from them and before they are rounded. Where `squares` is defined and not finite nothing changes: a bad
/// gradient does no harm before the host has seen it.
void adamw(const Tensor& w, const Tensor& rest, const Tensor& m, const Tensor& v, const Tensor& grad,
           const AdamWStep& step);

/// y = x_u + alpha (x_u - x_0), computed as (1+alpha) x_u - alpha x_0 in f64 and rounded once (bf16: by way of f32), so
/// that alpha = 0 gives x_u and alpha = -1 gives x_0, exactly (UIPE, arXiv 2503.04693, equation 5).
void extrapolate(const Tensor& y, const Tensor& x_u, const Tensor& x_0, double alpha);

// --- Random numbers (counter-based: the value depends on seed, stream and index alone) -----------------------------

/// y ~ N(0, std²).
void fill_normal(const Tensor& y, double std, std::uint64_t seed, std::uint64_t stream);
/// y uniform on (-bound, bound).
void fill_uniform(const Tensor& y, double bound, std::uint64_t seed, std::uint64_t stream);

/// y[T,C] (+)= x * m / (1 - p), where m is 0 with probability p in [0, 1) and else 1 (Srivastava et al. 2014). Element
/// c of a row is drawn by (seed, stream, place, c), place = places[t] >= 0: a row has the same mask in whatever batch
/// it comes. The gradient is the same op on dy.
void dropout(const Tensor& y, const Tensor& x, const Tensor& places, double p, std::uint64_t seed, std::uint64_t stream,
             bool accumulate = false);

}  // namespace uipe::tensor
