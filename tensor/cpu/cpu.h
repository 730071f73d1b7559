// The CPU implementation of ops.h, which documents each function. Shapes and types have been checked there.
#pragma once

#include <type_traits>

#include "tensor/ops.h"
#include "tensor/packed_matrix.h"

namespace uipe::tensor::cpu {

/// The type in which sums over T are kept.
template <class T>
using acc_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

/// Calls body.template operator()<T>() with T the element type of `dtype`, a float type.
template <class Body>
void with_float(DType dtype, const Body& body) {
    switch (dtype) {
        case DType::f64:
            return body.template operator()<double>();
        case DType::f32:
            return body.template operator()<float>();
        case DType::bf16:
            return body.template operator()<bf16>();
        case DType::i32:
            break;
    }
    throw Error("an i32 tensor where floats are needed");
}

/// The same over the accumulators' types, f64 and f32.
template <class Body>
void with_accumulator(DType dtype, const Body& body) {
    if (dtype == DType::f64) return body.template operator()<double>();
    body.template operator()<float>();
}

// Calls among these need the prefix cpu::, or argument-dependent lookup finds those of ops.h as well.
void fill(const Tensor& y, double value);
void copy(const Tensor& y, const Tensor& x);
void axpby(const Tensor& y, double a, const Tensor& x, double b);
void mul(const Tensor& y, const Tensor& a, const Tensor& b, bool accumulate);
void add(const Tensor& y, const Tensor& x, const Tensor& r);
void log_sigmoid(const Tensor& y, const Tensor& x);
void log_sigmoid_backward(const Tensor& dx, const Tensor& dy, const Tensor& x, bool accumulate);
void sum(const Tensor& y, const Tensor& x);
double sum_of_squares(const Tensor& x);
bool all_finite(const Tensor& x);
void segment_sum(const Tensor& y, const Tensor& x, const Tensor& cu_seqlens);
void segment_sum_backward(const Tensor& dx, const Tensor& dy, const Tensor& cu_seqlens, bool accumulate);
void matmul(const Tensor& y, const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b, bool accumulate);
/// w[n,k] as products a w^T with many rows read it; nullptr where oneDNN has no other layout for it, or no product.
std::shared_ptr<const Packed> pack(const Tensor& w);
/// y[m,n] = a[m,k] w^T. False where so few rows want w itself, or another layout.
bool matmul(const Tensor& y, const Tensor& a, const Packed& w);
/// y[m,n] = a[m,k] b[n,k]^T for m of 1 or 2.
void matmul_few_rows(const Tensor& y, const Tensor& a, const Tensor& b);
void embedding(const Tensor& y, const Tensor& table, const Tensor& tokens);
void embedding_backward(const Tensor& dtable, const Tensor& dy, const Tensor& tokens);
void rmsnorm(const Tensor& y, const Tensor& rstd, const Tensor& x, const Tensor& w, double eps);
void rmsnorm_backward(const Tensor& dx, const Tensor& dw, const Tensor& dy, const Tensor& x, const Tensor& w,
                      const Tensor& rstd, bool accumulate_dx);
void swiglu(const Tensor& y, const Tensor& gate, const Tensor& up);
void swiglu_backward(const Tensor& dgate, const Tensor& dup, const Tensor& dy, const Tensor& gate, const Tensor& up,
                     bool accumulate_gate, bool accumulate_up);
void rope(const Tensor& y, const Tensor& x, const Tensor& positions, std::int64_t head_dim, double theta, bool inverse,
          bool accumulate);
void attention(const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v,
               const Tensor& cu_queries, const Tensor& cu_keys, std::int64_t head_dim);
void attention_backward(const Tensor& dq, const Tensor& dk, const Tensor& dv, const Tensor& dout, const Tensor& q,
                        const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
                        const Tensor& cu_seqlens, std::int64_t head_dim, bool accumulate_q, bool accumulate_k,
                        bool accumulate_v);
void attention_decode(const Tensor& out, const Tensor& q, const Tensor& cache_k, const Tensor& cache_v,
                      const Tensor& slots, const Tensor& lengths, std::int64_t head_dim);
void cache_write(const Tensor& cache, const Tensor& x, const Tensor& slots, const Tensor& positions);
void token_logprob(const Tensor& logp, const Tensor& hidden, const Tensor& w, const Tensor& targets,
                   const Tensor& argmax, const Tensor& dlogits);
void token_logprob_backward(const Tensor& dhidden, const Tensor& dw, const Tensor& dlogp, const Tensor& hidden,
                            const Tensor& w, const Tensor& targets, bool accumulate_hidden, const Tensor& dlogits);
void token_kl(const Tensor& kl, const Tensor& hidden, const Tensor& w, const Tensor& hidden_ref, const Tensor& w_ref,
              const Tensor& mask, const Tensor& dlogits);
void token_kl_backward(const Tensor& dhidden, const Tensor& dw, const Tensor& dkl, const Tensor& hidden,
                       const Tensor& w, const Tensor& hidden_ref, const Tensor& w_ref, const Tensor& mask,
                       bool accumulate_hidden, const Tensor& dlogits);
void adamw(const Tensor& param, const Tensor& master, const Tensor& m, const Tensor& v, const Tensor& grad,
           const AdamWStep& step);
void extrapolate(const Tensor& y, const Tensor& x_u, const Tensor& x_0, double alpha);
void fill_normal(const Tensor& y, double std, std::uint64_t seed, std::uint64_t stream);

}  // namespace uipe::tensor::cpu
