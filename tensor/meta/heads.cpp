// The memory of the heads, chunk by chunk as the backends take it (cpu/heads.cpp, cuda/heads.cu).
#include "tensor/cpu/cpu.h"
#include "tensor/meta/meta.h"
#include "tensor/workspace.h"

namespace uipe::tensor::meta_ops {
namespace {

/// Calls body(first, n) for consecutive chunks of n of the rows that a head computes.
template <class Body>
void for_each_chunk(std::int64_t rows, const Tensor& w, const Body& body) {
    const std::int64_t step = head_chunk(w.dim(0), stands_for(w.device()).kind);
    for (std::int64_t first = 0; first < rows; first += step) body(first, std::min(step, rows - first));
}

/// n rows of x, together. A GPU reads them where they lie when no row is skipped.
Tensor gather(const Tensor& x, std::int64_t n, bool all) {
    const bool lies_so = all && stands_for(x.device()).kind == Device::Kind::cuda;
    return lies_so ? x.rows(0, n) : Tensor::empty({n, x.dim(1)}, x.dtype(), x.device());
}

Tensor logits_of(const Tensor& hidden_rows, const Tensor& w, const Tensor& d = {}) {
    const DType dtype = accumulator_of(w.dtype());
    const bool shared = d.defined() && d.dtype() == dtype;
    Tensor y = shared ? d : Tensor::empty({hidden_rows.dim(0), w.dim(0)}, dtype, w.device());
    meta_ops::matmul(y, hidden_rows, false, w, true, false);
    return y;
}

void head_gradient(const Tensor& dhidden, const Tensor& dw, const Tensor& d, const Tensor& hidden, const Tensor& w) {
    const std::int64_t n = d.dim(0);
    if (dw.defined()) meta_ops::matmul(dw, d, true, gather(hidden, n, false), false, true);
    if (!dhidden.defined()) return;
    const Tensor dx = Tensor::empty({n, w.dim(1)}, accumulator_of(w.dtype()), w.device());
    meta_ops::matmul(dx, d, false, w, false, false);
}

Tensor logits_gradient(std::int64_t n, const Tensor& w) { return Tensor::empty({n, w.dim(0)}, w.dtype(), w.device()); }

void logprobs(const Tensor& d, const Tensor& hidden, const Tensor& w, std::int64_t n, bool all) {
    const Tensor h = gather(hidden, n, all);
    const Tensor scores = logits_of(h, w, d);
}

void divergences(const Tensor& d, const Tensor& hidden, const Tensor& w, const Tensor& hidden_ref, const Tensor& w_ref,
                 std::int64_t n, bool all) {
    const Tensor scores = logits_of(gather(hidden, n, all), w, d);
    const Tensor reference = w_ref.defined() ? logits_of(gather(hidden_ref, n, all), w_ref) : Tensor();
}

/// `compute` makes the gradient of n rows of logits, where the forward pass kept none.
template <class Compute>
void backward(const Tensor& dhidden, const Tensor& dw, const Tensor& hidden, const Tensor& w, std::int64_t rows,
              const Tensor& kept, const Compute& compute) {
    if (rows == 0) return;
    if (kept.defined()) return head_gradient(dhidden, dw, kept, hidden, w);
    for_each_chunk(rows, w, [&](std::int64_t, std::int64_t n) { head_gradient(dhidden, dw, compute(n), hidden, w); });
}

}  // namespace

void token_logprob(const Tensor&, const Tensor& hidden, const Tensor& w, const Tensor& targets, const Tensor& argmax,
                   const Tensor& dlogits, const Tensor&) {
    if (argmax.defined()) cpu::fill(argmax, -1);
    const std::int64_t rows = num_targets(targets);
    for_each_chunk(rows, w, [&](std::int64_t first, std::int64_t n) {
        logprobs(dlogits.defined() ? dlogits.rows(first, first + n) : Tensor(), hidden, w, n, rows == targets.numel());
    });
}

void token_logprob_backward(const Tensor& dhidden, const Tensor& dw, const Tensor&, const Tensor& hidden,
                            const Tensor& w, const Tensor& targets, bool, const Tensor& dlogits) {
    const std::int64_t rows = num_targets(targets);
    backward(dhidden, dw, hidden, w, rows, dlogits, [&](std::int64_t n) {
        const Tensor d = logits_gradient(n, w);
        logprobs(d, hidden, w, n, rows == targets.numel());
        return d;
    });
}

namespace {

/// Of `rows` of T rows.
void compare(std::int64_t rows, const Tensor& y, const Tensor& hidden, const Tensor& w, const Tensor& hidden_ref,
             const Tensor& w_ref, const Tensor& dlogits) {
    for_each_chunk(rows, w, [&](std::int64_t first, std::int64_t n) {
        // The CPU's kernel writes a gradient always; the GPU's where it is wanted.
        Tensor d;
        if (dlogits.defined())
            d = dlogits.rows(first, first + n);
        else if (stands_for(w.device()).kind == Device::Kind::cpu)
            d = logits_gradient(n, w);
        divergences(d, hidden, w, hidden_ref, w_ref, n, rows == y.numel());
    });
}

void compare_backward(std::int64_t rows, const Tensor& dhidden, const Tensor& dw, const Tensor& dy,
                      const Tensor& hidden, const Tensor& w, const Tensor& hidden_ref, const Tensor& w_ref,
                      const Tensor& dlogits) {
    backward(dhidden, dw, hidden, w, rows, dlogits, [&](std::int64_t n) {
        const Tensor d = logits_gradient(n, w);
        divergences(d, hidden, w, hidden_ref, w_ref, n, rows == dy.numel());
        return d;
    });
}

}  // namespace

void token_kl(const Tensor& kl, const Tensor& hidden, const Tensor& w, const Tensor& hidden_ref, const Tensor& w_ref,
              const Tensor& mask, const Tensor& dlogits) {
    compare(num_taken(mask, kl.numel()), kl, hidden, w, hidden_ref, w_ref, dlogits);
}

void token_kl_backward(const Tensor& dhidden, const Tensor& dw, const Tensor& dkl, const Tensor& hidden,
                       const Tensor& w, const Tensor& hidden_ref, const Tensor& w_ref, const Tensor& mask, bool,
                       const Tensor& dlogits) {
    compare_backward(num_taken(mask, dkl.numel()), dhidden, dw, dkl, hidden, w, hidden_ref, w_ref, dlogits);
}

void token_cross_entropy(const Tensor& ce, const Tensor& hidden, const Tensor& w, const Tensor& hidden_ref,
                         const Tensor& w_ref, const Tensor& targets, double, const Tensor& dlogits) {
    compare(num_targets(targets), ce, hidden, w, hidden_ref, w_ref, dlogits);
}

void token_cross_entropy_backward(const Tensor& dhidden, const Tensor& dw, const Tensor& dce, const Tensor& hidden,
                                  const Tensor& w, const Tensor& hidden_ref, const Tensor& w_ref, const Tensor& targets,
                                  double, bool, const Tensor& dlogits) {
    compare_backward(num_targets(targets), dhidden, dw, dce, hidden, w, hidden_ref, w_ref, dlogits);
}

}  // namespace uipe::tensor::meta_ops
