#include "tensor/meta/meta.h"

#include "tensor/cpu/cpu.h"
#include "tensor/parallel.h"
#include "tensor/workspace.h"

namespace uipe::tensor::meta_ops {
namespace {

Device::Kind kind_of(const Tensor& t) { return stands_for(t.device()).kind; }
bool as_cpu(const Tensor& t) { return kind_of(t) == Device::Kind::cpu; }

Tensor widened(const Tensor& x) { return x.to(accumulator_of(x.dtype())); }

}  // namespace

// --- What needs no memory of its own, or on a GPU a few bytes -----------------------------------------------------

void fill(const Tensor&, double) {}
void copy(const Tensor&, const Tensor&) {}
void axpby(const Tensor&, double, const Tensor&, double) {}
void mul(const Tensor&, const Tensor&, const Tensor&, bool) {}
void add(const Tensor&, const Tensor&, const Tensor&) {}
void log_sigmoid(const Tensor&, const Tensor&) {}
void log_sigmoid_backward(const Tensor&, const Tensor&, const Tensor&, bool) {}
void probability_weights(const Tensor&, const Tensor&, double, double) {}
void sum(const Tensor&, const Tensor&) {}
void add_squares(const Tensor&, const Tensor&) {}
bool all_finite(const Tensor&) { return true; }
void squared_distance(const Tensor&, const Tensor&, const Tensor&) {}
void squared_distance_backward(const Tensor&, const Tensor&, const Tensor&, const Tensor&, bool) {}
void segment_sum(const Tensor&, const Tensor&, const Tensor&) {}
void segment_sum_backward(const Tensor&, const Tensor&, const Tensor&, bool) {}
void embedding(const Tensor&, const Tensor&, const Tensor&) {}
void embedding_backward(const Tensor&, const Tensor&, const Tensor&) {}
void swiglu(const Tensor&, const Tensor&, const Tensor&) {}
void swiglu_backward(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, bool, bool) {}
void rope(const Tensor&, const Tensor&, const Tensor&, std::int64_t, double, bool, bool) {}
void attention_decode(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                      std::int64_t) {}
void cache_write(const Tensor&, const Tensor&, const Tensor&, const Tensor&) {}
void adamw(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const AdamWStep&) {}
void extrapolate(const Tensor&, const Tensor&, const Tensor&, double) {}
void fill_normal(const Tensor&, double, std::uint64_t, std::uint64_t) {}
void fill_uniform(const Tensor&, double, std::uint64_t, std::uint64_t) {}
void dropout(const Tensor&, const Tensor&, const Tensor&, double, std::uint64_t, std::uint64_t, bool) {}

// --- What takes memory of its own ---------------------------------------------------------------------------------

void sum_backward(const Tensor& dx, const Tensor&, bool accumulate) {
    if (accumulate && as_cpu(dx)) Tensor::empty(dx.shape(), accumulator_of(dx.dtype()), dx.device());
}

void matmul(const Tensor& y, const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b, bool accumulate) {
    if (as_cpu(y))
        cpu::matmul(y, a, transpose_a, b, transpose_b, accumulate);  // which computes nothing on meta tensors
}

void rmsnorm(const Tensor& y, const Tensor&, const Tensor&, const Tensor& w, double) {
    if (as_cpu(y)) widened(w);
}

void add_rmsnorm(const Tensor&, const Tensor& y, const Tensor& rstd, const Tensor& x, const Tensor&, const Tensor& w,
                 double eps) {
    meta_ops::rmsnorm(y, rstd, x, w, eps);
}

void rmsnorm_backward(const Tensor&, const Tensor& dw, const Tensor&, const Tensor& x, const Tensor& w, const Tensor&,
                      bool) {
    const Tensor wide = as_cpu(x) ? widened(w) : Tensor();
    const std::int64_t groups = ceil_div(x.dim(0), norm_group(x.dim(0), kind_of(x)));
    if (dw.defined()) Tensor::empty({groups, x.dim(1)}, accumulator_of(x.dtype()), x.device());
}

void attention(const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v,
               const Tensor& cu_queries, const Tensor& cu_keys, std::int64_t head_dim) {
    if (as_cpu(q)) cpu::attention(out, lse, q, k, v, cu_queries, cu_keys, head_dim);
}

void attention_backward(const Tensor& dq, const Tensor& dk, const Tensor& dv, const Tensor& dout, const Tensor& q,
                        const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
                        const Tensor& cu_seqlens, std::int64_t head_dim, bool accumulate_q, bool accumulate_k,
                        bool accumulate_v) {
    if (as_cpu(q))
        cpu::attention_backward(dq, dk, dv, dout, q, k, v, out, lse, cu_seqlens, head_dim, accumulate_q, accumulate_k,
                                accumulate_v);
    else
        Tensor::empty(lse.shape(), DType::f32, q.device());
}

void argmax(const Tensor& y, const Tensor& x) {
    const Tensor wide = as_cpu(x) ? widened(x) : Tensor();
    cpu::fill(y, 0.0);
}

}  // namespace uipe::tensor::meta_ops
