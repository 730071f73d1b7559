// Checks shapes and types, then hands over to the device's implementation.
#include "tensor/ops.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tensor/allocator.h"
#include "tensor/cpu/cpu.h"
#include "tensor/meta/meta.h"
#include "tensor/profile.h"
#ifdef UIPE_CUDA
#include "tensor/cuda/cuda.h"
#endif

// Calls the implementation of the device that `t` is on; what it allocates is its workspace. (A macro: the call is one
// of several functions of one name.)
#ifdef UIPE_CUDA
#define DISPATCH_CUDA(t, ...) \
    if ((t).device().kind == Device::Kind::cuda) return cuda::__VA_ARGS__
#else
#define DISPATCH_CUDA(t, ...)
#endif
#define DISPATCH(t, ...)                                                       \
    const MemoryScope workspace(MemoryClass::workspace);                       \
    DISPATCH_CUDA(t, __VA_ARGS__);                                             \
    if ((t).device().kind == Device::Kind::meta) return meta_ops::__VA_ARGS__; \
    return cpu::__VA_ARGS__

// Times what follows, on the device of `t`, for a profile. `work` is computed for a profile alone.
#define TIMED(family, t, work) const profile::Timer timer(Family::family, (t).device(), [&]() -> Work { return work; })

namespace uipe::tensor {
namespace {

/// Throws unless `ok`, naming the op and the shapes and types of its operands.
void check(bool ok, const char* op, const char* rule, std::initializer_list<const Tensor*> operands) {
    const Tensor* first = nullptr;
    for (const Tensor* t : operands) {
        if (!t->defined() || t->dtype() == DType::i32) continue;
        if (first == nullptr) first = t;
        require(t->device() == first->device(), op, ": operands on ", name_of(first->device()), " and on ",
                name_of(t->device()));
    }
    if (ok) return;
    std::string text = cat(op, ": ", rule, "; got");
    for (const Tensor* t : operands)
        text += t->defined() ? cat(" ", name_of(t->dtype()), to_string(t->shape())) : std::string(" none");
    throw Error(text);
}

bool is_float(const Tensor& t) { return t.defined() && t.dtype() != DType::i32; }
bool is_index(const Tensor& t) { return t.defined() && t.dtype() == DType::i32 && t.rank() == 1; }
bool is_acc(const Tensor& t, const Tensor& of) { return t.defined() && t.dtype() == accumulator_of(of.dtype()); }
bool alike(const Tensor& a, const Tensor& b) { return a.defined() && a.dtype() == b.dtype() && a.shape() == b.shape(); }

void check_indices(const char* op, const Tensor& index, std::int64_t low, std::int64_t high) {
    const std::int32_t* first = index.data<std::int32_t>();
    const std::int32_t* wrong =
        std::find_if(first, first + index.numel(), [low, high](std::int32_t i) { return i < low || high <= i; });
    if (wrong == first + index.numel()) return;
    throw Error(cat(op, ": index ", *wrong, " at ", wrong - first, " outside [", low, ",", high, ")"));
}

void check_cu_seqlens(const char* op, const Tensor& cu_seqlens, std::int64_t T) {
    check(is_index(cu_seqlens) && cu_seqlens.numel() >= 1, op, "cu_seqlens is i32[B+1]", {&cu_seqlens});
    const std::int32_t* cu = cu_seqlens.data<std::int32_t>();
    const std::int64_t B = cu_seqlens.numel() - 1;
    bool ok = cu[0] == 0 && cu[B] == T;
    for (std::int64_t b = 0; b < B; ++b) ok = ok && cu[b] <= cu[b + 1];
    require(ok, op, ": cu_seqlens must rise from 0 to T = ", T);
}

void check_attention(const char* op, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& cu_queries,
                     const Tensor& cu_keys, std::int64_t D) {
    const bool ok = is_float(q) && q.rank() == 2 && k.rank() == 2 && alike(k, v) && k.dtype() == q.dtype() && D > 0 &&
                    q.dim(1) % D == 0 && k.dim(1) % D == 0 && k.dim(1) > 0 && q.dim(1) % k.dim(1) == 0;
    check(ok, op, "q[T,H*D], k and v[S,K*D], H a multiple of K", {&q, &k, &v});
    check_cu_seqlens(op, cu_queries, q.dim(0));
    check_cu_seqlens(op, cu_keys, k.dim(0));
    check(cu_queries.numel() == cu_keys.numel(), op, "cu_queries and cu_keys [B+1]", {&cu_queries, &cu_keys});
    const std::int32_t* cu_q = cu_queries.data<std::int32_t>();
    const std::int32_t* cu_k = cu_keys.data<std::int32_t>();
    for (std::int64_t b = 0; b + 1 < cu_keys.numel(); ++b)
        require(cu_q[b + 1] - cu_q[b] <= cu_k[b + 1] - cu_k[b], op, ": sequence ", b, " has ", cu_q[b + 1] - cu_q[b],
                " queries and only ", cu_k[b + 1] - cu_k[b], " keys");
}

void check_head(const char* op, const Tensor& hidden, const Tensor& w) {
    check(is_float(hidden) && is_float(w) && hidden.rank() == 2 && w.rank() == 2 && w.dtype() == hidden.dtype() &&
              w.dim(1) == hidden.dim(1) && w.dim(0) > 0,
          op, "hidden[T,C], w[V,C] of one type", {&hidden, &w});
}

bool is_rows(const Tensor& x, const Tensor& hidden) {
    return is_acc(x, hidden) && x.rank() == 1 && x.dim(0) == hidden.dim(0);
}

void check_distance(const char* op, const Tensor& d, const Tensor& x, const Tensor& y) {
    check(is_float(x) && x.rank() == 2 && y.dtype() == x.dtype() && y.rank() == 2 && y.dim(1) == x.dim(1) &&
              (y.dim(0) == 1 || y.dim(0) == x.dim(0)) && is_rows(d, x),
          op, "d[T], x[T,C], y[T,C] or [1,C]", {&d, &x, &y});
}

void check_soft_labels(const char* op, const Tensor& ce, const Tensor& hidden, const Tensor& w,
                       const Tensor& hidden_ref, const Tensor& w_ref, const Tensor& targets, double lowered) {
    check_head(op, hidden, w);
    const bool own = !hidden_ref.defined() && !w_ref.defined();
    if (!own) check_head(op, hidden_ref, w_ref);
    check(is_rows(ce, hidden) &&
              (own || (hidden_ref.dtype() == hidden.dtype() && hidden_ref.dim(0) == hidden.dim(0) &&
                       w_ref.dim(0) == w.dim(0))) &&
              is_index(targets) && targets.numel() == hidden.dim(0),
          op, "ce and targets [T]; one type, one T and one V on both sides",
          {&ce, &hidden, &w, &hidden_ref, &w_ref, &targets});
    check_indices(op, targets, -1, w.dim(0));
    require(!std::isnan(lowered) && lowered > -std::numeric_limits<double>::infinity(), op, ": lowered by ", lowered);
    require(!std::isinf(lowered) || w.dim(0) > 1, op, ": without its target a vocabulary of one token has none left");
}

void check_head_gradient(const char* op, const Tensor& dhidden, const Tensor& dw, const Tensor& hidden,
                         const Tensor& w) {
    check(
        (!dhidden.defined() || alike(dhidden, hidden)) && (!dw.defined() || (is_acc(dw, w) && dw.shape() == w.shape())),
        op, "dhidden like hidden, dw in the accumulator's type like w", {&dhidden, &dw, &hidden, &w});
}

void check_dlogits(const char* op, const Tensor& dlogits, const Tensor& w, std::int64_t n) {
    check(!dlogits.defined() || (dlogits.dtype() == w.dtype() && dlogits.shape() == Shape{n, w.dim(0)}), op,
          "dlogits in the type of w, a row for each that is not skipped", {&dlogits, &w});
}

// What ops have to do at least. A tensor that is added to is counted once.

Work bytes(std::initializer_list<const Tensor*> operands) {
    double n = 0;
    for (const Tensor* t : operands) n += t->defined() ? static_cast<double>(t->nbytes()) : 0.0;
    return {0.0, n};
}

/// `count` matrix products of M K N, which move `bytes`.
Work products(double count, std::int64_t M, std::int64_t K, std::int64_t N, const Work& moved) {
    return {2.0 * count * static_cast<double>(M) * static_cast<double>(K) * static_cast<double>(N), moved.bytes};
}

/// `count` products of each query with each key that it sees; one forward pass has two of them.
Work attention_work(double count, const Tensor& q, const Tensor& cu_queries, const Tensor& cu_keys, const Work& moved) {
    const std::int32_t* cu_q = cu_queries.data<std::int32_t>();
    const std::int32_t* cu_k = cu_keys.data<std::int32_t>();
    double pairs = 0;
    for (std::int64_t b = 0; b + 1 < cu_keys.numel(); ++b) {
        const double n = cu_q[b + 1] - cu_q[b];
        const double m = cu_k[b + 1] - cu_k[b];
        pairs += n * (m - n) + n * (n + 1.0) / 2.0;
    }
    return {2.0 * count * pairs * static_cast<double>(q.dim(1)), moved.bytes};
}

/// Of attention_decode: the keys and values are read once.
Work decode_work(const Tensor& q, const Tensor& cache, const Tensor& lengths) {
    double keys = 0;
    for (const std::int32_t n : lengths.to_vector<std::int32_t>()) keys += n;
    const double size = static_cast<double>(cache.dim(2)) * static_cast<double>(size_of(cache.dtype()));
    return {4.0 * keys * static_cast<double>(q.dim(1)), 2.0 * keys * size};
}

}  // namespace

void fill(const Tensor& y, double value) {
    TIMED(elementwise, y, bytes({&y}));
    DISPATCH(y, fill(y, value));
}

void copy(const Tensor& y, const Tensor& x) {
    check(is_float(y) && is_float(x) && y.shape() == x.shape(), "copy", "equal shapes, float types", {&y, &x});
    TIMED(copies, y, bytes({&y, &x}));
    DISPATCH(y, copy(y, x));
}

void axpby(const Tensor& y, double a, const Tensor& x, double b) {
    check(is_float(y) && is_float(x) && y.numel() == x.numel(), "axpby", "equal sizes, float types", {&y, &x});
    TIMED(elementwise, y, bytes({&y, &x}));
    DISPATCH(y, axpby(y, a, x, b));
}

void mul(const Tensor& y, const Tensor& a, const Tensor& b, bool accumulate) {
    check(is_float(y) && alike(y, a) && alike(y, b), "mul", "operands alike", {&y, &a, &b});
    TIMED(elementwise, y, bytes({&y, &a, &b}));
    DISPATCH(y, mul(y, a, b, accumulate));
}

void add(const Tensor& y, const Tensor& x, const Tensor& r) {
    check(is_float(y) && alike(y, x) && alike(y, r), "add", "operands alike", {&y, &x, &r});
    TIMED(elementwise, y, bytes({&y, &x, &r}));
    DISPATCH(y, add(y, x, r));
}

void log_sigmoid(const Tensor& y, const Tensor& x) {
    check(is_float(y) && alike(y, x), "log_sigmoid", "operands alike", {&y, &x});
    TIMED(elementwise, y, bytes({&y, &x}));
    DISPATCH(y, log_sigmoid(y, x));
}

void log_sigmoid_backward(const Tensor& dx, const Tensor& dy, const Tensor& x, bool accumulate) {
    check(is_float(dx) && alike(dx, dy) && alike(dx, x), "log_sigmoid_backward", "operands alike", {&dx, &dy, &x});
    TIMED(elementwise, dx, bytes({&dx, &dy, &x}));
    DISPATCH(dx, log_sigmoid_backward(dx, dy, x, accumulate));
}

void probability_weights(const Tensor& y, const Tensor& logp, double a, double b) {
    check(is_float(y) && alike(y, logp), "probability_weights", "operands alike", {&y, &logp});
    require(a >= 0.0 && b >= 0.0, "probability_weights: exponents >= 0 are needed, not ", a, " and ", b);
    TIMED(elementwise, y, bytes({&y, &logp}));
    DISPATCH(y, probability_weights(y, logp, a, b));
}

void sum(const Tensor& y, const Tensor& x) {
    check(is_float(y) && is_float(x) && y.numel() == 1, "sum", "y[1], float types", {&y, &x});
    TIMED(elementwise, y, bytes({&x}));
    DISPATCH(y, sum(y, x));
}

void sum_backward(const Tensor& dx, const Tensor& dy, bool accumulate) {
    check(is_float(dx) && is_float(dy) && dy.numel() == 1, "sum_backward", "dy[1], float types", {&dx, &dy});
    TIMED(elementwise, dx, bytes({&dx}));
    DISPATCH(dx, sum_backward(dx, dy, accumulate));
}

void add_squares(const Tensor& y, const Tensor& x) {
    check(y.defined() && y.dtype() == DType::f64 && y.numel() == 1 && is_float(x), "add_squares",
          "y[1] of f64, x of a float type", {&y, &x});
    TIMED(optimizer, x, bytes({&x}));
    DISPATCH(x, add_squares(y, x));
}

double sum_of_squares(const Tensor& x) {
    const Tensor y = Tensor::zeros({1}, DType::f64, x.device());
    add_squares(y, x);
    return y.item();
}

bool all_finite(const Tensor& x) {
    check(is_float(x), "all_finite", "a float tensor", {&x});
    TIMED(elementwise, x, bytes({&x}));
    DISPATCH(x, all_finite(x));
}

void squared_distance(const Tensor& d, const Tensor& x, const Tensor& y) {
    check_distance("squared_distance", d, x, y);
    TIMED(elementwise, d, bytes({&x, &y}));
    DISPATCH(d, squared_distance(d, x, y));
}

void squared_distance_backward(const Tensor& dx, const Tensor& dd, const Tensor& x, const Tensor& y, bool accumulate) {
    check_distance("squared_distance_backward", dd, x, y);
    check(alike(dx, x), "squared_distance_backward", "dx like x", {&dx, &x});
    TIMED(elementwise, dx, bytes({&dx, &x, &y}));
    DISPATCH(dx, squared_distance_backward(dx, dd, x, y, accumulate));
}

void segment_sum(const Tensor& y, const Tensor& x, const Tensor& cu_seqlens) {
    check(is_float(x) && x.rank() == 1 && y.dtype() == x.dtype() && y.numel() == cu_seqlens.numel() - 1, "segment_sum",
          "y[B], x[T], cu_seqlens[B+1]", {&y, &x, &cu_seqlens});
    check_cu_seqlens("segment_sum", cu_seqlens, x.dim(0));
    TIMED(elementwise, y, bytes({&y, &x}));
    DISPATCH(y, segment_sum(y, x, cu_seqlens));
}

void segment_sum_backward(const Tensor& dx, const Tensor& dy, const Tensor& cu_seqlens, bool accumulate) {
    check(is_float(dx) && dx.rank() == 1 && dy.dtype() == dx.dtype() && dy.numel() == cu_seqlens.numel() - 1,
          "segment_sum_backward", "dx[T], dy[B], cu_seqlens[B+1]", {&dx, &dy, &cu_seqlens});
    check_cu_seqlens("segment_sum_backward", cu_seqlens, dx.dim(0));
    TIMED(elementwise, dx, bytes({&dx, &dy}));
    DISPATCH(dx, segment_sum_backward(dx, dy, cu_seqlens, accumulate));
}

void matmul(const Tensor& y, const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b, bool accumulate) {
    const bool ok = is_float(a) && is_float(b) && is_float(y) && a.rank() == 2 && b.rank() == 2 && y.rank() == 2 &&
                    a.dtype() == b.dtype() && (y.dtype() == a.dtype() || is_acc(y, a)) &&
                    y.dim(0) == a.dim(transpose_a ? 1 : 0) && y.dim(1) == b.dim(transpose_b ? 0 : 1) &&
                    a.dim(transpose_a ? 0 : 1) == b.dim(transpose_b ? 1 : 0);
    check(ok, "matmul", transpose_a ? "y[M,N] = a[K,M]^T b" : "y[M,N] = a[M,K] b", {&y, &a, &b});
    TIMED(matmul, y, products(1.0, y.dim(0), a.dim(transpose_a ? 0 : 1), y.dim(1), bytes({&y, &a, &b})));
    DISPATCH(y, matmul(y, a, transpose_a, b, transpose_b, accumulate));
}

void embedding(const Tensor& y, const Tensor& table, const Tensor& tokens) {
    check(is_float(table) && table.rank() == 2 && is_index(tokens) && y.dtype() == table.dtype() &&
              y.shape() == Shape{tokens.numel(), table.dim(1)},
          "embedding", "y[T,C], table[V,C], tokens[T]", {&y, &table, &tokens});
    check_indices("embedding", tokens, 0, table.dim(0));
    TIMED(elementwise, y, bytes({&y, &y}));
    DISPATCH(y, embedding(y, table, tokens));
}

void embedding_backward(const Tensor& dtable, const Tensor& dy, const Tensor& tokens) {
    check(is_acc(dtable, dy) && dtable.rank() == 2 && is_index(tokens) &&
              dy.shape() == Shape{tokens.numel(), dtable.dim(1)},
          "embedding_backward", "dtable[V,C], dy[T,C], tokens[T]", {&dtable, &dy, &tokens});
    check_indices("embedding_backward", tokens, 0, dtable.dim(0));
    TIMED(elementwise, dtable, bytes({&dy, &dy}));
    DISPATCH(dtable, embedding_backward(dtable, dy, tokens));
}

void rmsnorm(const Tensor& y, const Tensor& rstd, const Tensor& x, const Tensor& w, double eps) {
    check(is_float(x) && is_float(w) && x.rank() == 2 && alike(y, x) && w.dtype() == x.dtype() &&
              w.shape() == Shape{x.dim(1)} && is_acc(rstd, x) && rstd.shape() == Shape{x.dim(0)},
          "rmsnorm", "y and x[T,C], w[C], rstd[T]", {&y, &rstd, &x, &w});
    TIMED(norm, y, bytes({&y, &x}));
    DISPATCH(y, rmsnorm(y, rstd, x, w, eps));
}

void add_rmsnorm(const Tensor& h, const Tensor& y, const Tensor& rstd, const Tensor& x, const Tensor& r,
                 const Tensor& w, double eps) {
    check(is_float(x) && is_float(w) && x.rank() == 2 && alike(h, x) && alike(y, x) && alike(r, x) &&
              w.dtype() == x.dtype() && w.shape() == Shape{x.dim(1)} && is_acc(rstd, x) &&
              rstd.shape() == Shape{x.dim(0)},
          "add_rmsnorm", "h, y, x and r[T,C], w[C], rstd[T]", {&h, &y, &rstd, &x, &r, &w});
    TIMED(norm, y, bytes({&h, &y, &x, &r}));
    DISPATCH(y, add_rmsnorm(h, y, rstd, x, r, w, eps));
}

void rmsnorm_backward(const Tensor& dx, const Tensor& dw, const Tensor& dy, const Tensor& x, const Tensor& w,
                      const Tensor& rstd, bool accumulate_dx) {
    check(is_float(x) && is_float(w) && x.rank() == 2 && alike(dy, x) && (!dx.defined() || alike(dx, x)) &&
              w.dtype() == x.dtype() && w.shape() == Shape{x.dim(1)} &&
              (!dw.defined() || (is_acc(dw, x) && dw.shape() == w.shape())) && is_acc(rstd, x) &&
              rstd.shape() == Shape{x.dim(0)},
          "rmsnorm_backward", "dx, dy and x[T,C], w and dw[C], rstd[T]", {&dx, &dw, &dy, &x, &w, &rstd});
    TIMED(norm, x, bytes({&dx, &dy, &x}));
    DISPATCH(x, rmsnorm_backward(dx, dw, dy, x, w, rstd, accumulate_dx));
}

void swiglu(const Tensor& y, const Tensor& gate, const Tensor& up) {
    check(is_float(y) && alike(y, gate) && alike(y, up), "swiglu", "operands alike", {&y, &gate, &up});
    TIMED(elementwise, y, bytes({&y, &gate, &up}));
    DISPATCH(y, swiglu(y, gate, up));
}

void swiglu_backward(const Tensor& dgate, const Tensor& dup, const Tensor& dy, const Tensor& gate, const Tensor& up,
                     bool accumulate_gate, bool accumulate_up) {
    check(is_float(dy) && alike(dgate, dy) && alike(dup, dy) && alike(gate, dy) && alike(up, dy), "swiglu_backward",
          "operands alike", {&dgate, &dup, &dy, &gate, &up});
    TIMED(elementwise, dy, bytes({&dgate, &dup, &dy, &gate, &up}));
    DISPATCH(dgate, swiglu_backward(dgate, dup, dy, gate, up, accumulate_gate, accumulate_up));
}

void rope(const Tensor& y, const Tensor& x, const Tensor& positions, std::int64_t head_dim, double theta, bool inverse,
          bool accumulate) {
    check(is_float(x) && x.rank() == 2 && alike(y, x) && is_index(positions) && positions.numel() == x.dim(0) &&
              head_dim > 0 && head_dim % 2 == 0 && x.dim(1) % head_dim == 0,
          "rope", "y and x[T,heads*D], positions[T], D even", {&y, &x, &positions});
    TIMED(elementwise, y, bytes({&y, &x}));
    DISPATCH(y, rope(y, x, positions, head_dim, theta, inverse, accumulate));
}

void check_device([[maybe_unused]] Device device, [[maybe_unused]] DType dtype,
                  [[maybe_unused]] std::int64_t head_dim) {
#ifdef UIPE_CUDA
    if (device.kind == Device::Kind::cuda) {
        cuda::check_attention(dtype, head_dim);
        cuda::check_products();
    }
#endif
}

void attention(const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v,
               const Tensor& cu_queries, const Tensor& cu_keys, std::int64_t head_dim) {
    check_attention("attention", q, k, v, cu_queries, cu_keys, head_dim);
    check(alike(out, q) && is_acc(lse, q) && lse.shape() == Shape{q.dim(0), q.dim(1) / head_dim}, "attention",
          "out like q, lse[T,H]", {&out, &lse, &q});
    TIMED(attention, out, attention_work(2.0, q, cu_queries, cu_keys, bytes({&out, &q, &k, &v})));
    DISPATCH(out, attention(out, lse, q, k, v, cu_queries, cu_keys, head_dim));
}

void attention_backward(const Tensor& dq, const Tensor& dk, const Tensor& dv, const Tensor& dout, const Tensor& q,
                        const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
                        const Tensor& cu_seqlens, std::int64_t head_dim, bool accumulate_q, bool accumulate_k,
                        bool accumulate_v) {
    check_attention("attention_backward", q, k, v, cu_seqlens, cu_seqlens, head_dim);
    check(alike(dq, q) && alike(dk, k) && alike(dv, v) && alike(dout, q) && alike(out, q) && is_acc(lse, q) &&
              lse.shape() == Shape{q.dim(0), q.dim(1) / head_dim},
          "attention_backward", "gradients like their tensors, lse[T,H]", {&dq, &dk, &dv, &dout, &out, &lse});
    TIMED(attention, dq,
          attention_work(5.0, q, cu_seqlens, cu_seqlens, bytes({&dq, &dk, &dv, &dout, &q, &k, &v, &out})));
    DISPATCH(dq, attention_backward(dq, dk, dv, dout, q, k, v, out, lse, cu_seqlens, head_dim, accumulate_q,
                                    accumulate_k, accumulate_v));
}

void attention_decode(const Tensor& out, const Tensor& q, const Tensor& cache_k, const Tensor& cache_v,
                      const Tensor& slots, const Tensor& lengths, std::int64_t head_dim) {
    const bool ok = is_float(q) && q.rank() == 2 && alike(out, q) && alike(cache_k, cache_v) && cache_k.rank() == 3 &&
                    cache_k.dtype() == q.dtype() && head_dim > 0 && cache_k.dim(2) % head_dim == 0 &&
                    cache_k.dim(2) > 0 && q.dim(1) % cache_k.dim(2) == 0 && is_index(slots) && is_index(lengths) &&
                    slots.numel() == q.dim(0) && lengths.numel() == q.dim(0);
    check(ok, "attention_decode", "q[B,H*D], caches[S,capacity,K*D], slots[B], lengths[B]",
          {&out, &q, &cache_k, &cache_v, &slots, &lengths});
    check_indices("attention_decode slots", slots, 0, cache_k.dim(0));
    check_indices("attention_decode lengths", lengths, 1, cache_k.dim(1) + 1);
    TIMED(attention, out, decode_work(q, cache_k, lengths));
    DISPATCH(out, attention_decode(out, q, cache_k, cache_v, slots, lengths, head_dim));
}

void cache_write(const Tensor& cache, const Tensor& x, const Tensor& slots, const Tensor& positions) {
    check(is_float(x) && x.rank() == 2 && cache.rank() == 3 && cache.dtype() == x.dtype() && cache.dim(2) == x.dim(1) &&
              is_index(slots) && is_index(positions) && slots.numel() == x.dim(0) && positions.numel() == x.dim(0),
          "cache_write", "cache[S,capacity,K*D], x[T,K*D], slots[T], positions[T]", {&cache, &x, &slots, &positions});
    check_indices("cache_write slots", slots, 0, cache.dim(0));
    check_indices("cache_write positions", positions, 0, cache.dim(1));
    TIMED(copies, cache, bytes({&x, &x}));
    DISPATCH(cache, cache_write(cache, x, slots, positions));
}

std::int64_t num_targets(const Tensor& targets) {
    const std::int32_t* t = targets.data<std::int32_t>();
    return std::count_if(t, t + targets.numel(), [](std::int32_t target) { return target >= 0; });
}

std::int64_t num_taken(const Tensor& mask, std::int64_t T) {
    if (!mask.defined()) return T;
    const std::int32_t* m = mask.data<std::int32_t>();
    return mask.numel() - std::count(m, m + mask.numel(), 0);
}

void token_logprob(const Tensor& logp, const Tensor& hidden, const Tensor& w, const Tensor& targets,
                   const Tensor& argmax, const Tensor& dlogits, const Tensor& moments) {
    check_head("token_logprob", hidden, w);
    check(is_rows(logp, hidden) && is_index(targets) && targets.numel() == hidden.dim(0) &&
              (!argmax.defined() || (is_index(argmax) && argmax.numel() == hidden.dim(0))) &&
              (!moments.defined() || (is_acc(moments, hidden) && moments.shape() == Shape{hidden.dim(0), 2})),
          "token_logprob", "logp, targets and argmax [T], moments [T,2]",
          {&logp, &hidden, &targets, &argmax, &moments});
    check_indices("token_logprob targets", targets, -1, w.dim(0));
    check_dlogits("token_logprob", dlogits, w, num_targets(targets));
    TIMED(heads, logp, products(1.0, num_targets(targets), w.dim(1), w.dim(0), bytes({&hidden, &w, &dlogits})));
    DISPATCH(logp, token_logprob(logp, hidden, w, targets, argmax, dlogits, moments));
}

void token_logprob_backward(const Tensor& dhidden, const Tensor& dw, const Tensor& dlogp, const Tensor& hidden,
                            const Tensor& w, const Tensor& targets, bool accumulate_hidden, const Tensor& dlogits) {
    check_head("token_logprob_backward", hidden, w);
    check_head_gradient("token_logprob_backward", dhidden, dw, hidden, w);
    check(is_rows(dlogp, hidden) && is_index(targets) && targets.numel() == hidden.dim(0), "token_logprob_backward",
          "dlogp and targets [T]", {&dlogp, &hidden, &targets});
    check_indices("token_logprob_backward targets", targets, -1, w.dim(0));
    check_dlogits("token_logprob_backward", dlogits, w, num_targets(targets));
    TIMED(heads, hidden,
          products(dlogits.defined() ? 2.0 : 3.0, num_targets(targets), w.dim(1), w.dim(0),
                   bytes({&dhidden, &dw, &hidden, &w, &dlogits, &dlogits})));
    DISPATCH(hidden, token_logprob_backward(dhidden, dw, dlogp, hidden, w, targets, accumulate_hidden, dlogits));
}

void token_kl(const Tensor& kl, const Tensor& hidden, const Tensor& w, const Tensor& hidden_ref, const Tensor& w_ref,
              const Tensor& mask, const Tensor& dlogits) {
    check_head("token_kl", hidden, w);
    check_head("token_kl reference", hidden_ref, w_ref);
    check(is_rows(kl, hidden) && hidden_ref.dtype() == hidden.dtype() && hidden_ref.dim(0) == hidden.dim(0) &&
              w_ref.dim(0) == w.dim(0) && (!mask.defined() || (is_index(mask) && mask.numel() == hidden.dim(0))),
          "token_kl", "kl and mask [T]; one type, one T and one V on both sides",
          {&kl, &hidden, &w, &hidden_ref, &w_ref, &mask});
    check_dlogits("token_kl", dlogits, w, num_taken(mask, hidden.dim(0)));
    TIMED(heads, kl,
          products(2.0, num_taken(mask, hidden.dim(0)), w.dim(1), w.dim(0),
                   bytes({&hidden, &hidden_ref, &w, &w_ref, &dlogits})));
    DISPATCH(kl, token_kl(kl, hidden, w, hidden_ref, w_ref, mask, dlogits));
}

void token_kl_backward(const Tensor& dhidden, const Tensor& dw, const Tensor& dkl, const Tensor& hidden,
                       const Tensor& w, const Tensor& hidden_ref, const Tensor& w_ref, const Tensor& mask,
                       bool accumulate_hidden, const Tensor& dlogits) {
    check_head("token_kl_backward", hidden, w);
    check_head("token_kl_backward reference", hidden_ref, w_ref);
    check_head_gradient("token_kl_backward", dhidden, dw, hidden, w);
    check(is_rows(dkl, hidden) && hidden_ref.dtype() == hidden.dtype() && hidden_ref.dim(0) == hidden.dim(0) &&
              w_ref.dim(0) == w.dim(0) && (!mask.defined() || (is_index(mask) && mask.numel() == hidden.dim(0))),
          "token_kl_backward", "dkl and mask [T]; one type, one T and one V on both sides",
          {&dkl, &hidden, &hidden_ref, &mask});
    check_dlogits("token_kl_backward", dlogits, w, num_taken(mask, hidden.dim(0)));
    TIMED(heads, hidden,
          products(dlogits.defined() ? 2.0 : 4.0, num_taken(mask, hidden.dim(0)), w.dim(1), w.dim(0),
                   bytes({&dhidden, &dw, &hidden, &w, &dlogits, &dlogits})));
    DISPATCH(hidden,
             token_kl_backward(dhidden, dw, dkl, hidden, w, hidden_ref, w_ref, mask, accumulate_hidden, dlogits));
}

void token_cross_entropy(const Tensor& ce, const Tensor& hidden, const Tensor& w, const Tensor& hidden_ref,
                         const Tensor& w_ref, const Tensor& targets, double lowered, const Tensor& dlogits) {
    check_soft_labels("token_cross_entropy", ce, hidden, w, hidden_ref, w_ref, targets, lowered);
    check_dlogits("token_cross_entropy", dlogits, w, num_targets(targets));
    TIMED(heads, ce,
          products(w_ref.defined() ? 2.0 : 1.0, num_targets(targets), w.dim(1), w.dim(0),
                   bytes({&hidden, &hidden_ref, &w, &w_ref, &dlogits})));
    DISPATCH(ce, token_cross_entropy(ce, hidden, w, hidden_ref, w_ref, targets, lowered, dlogits));
}

void token_cross_entropy_backward(const Tensor& dhidden, const Tensor& dw, const Tensor& dce, const Tensor& hidden,
                                  const Tensor& w, const Tensor& hidden_ref, const Tensor& w_ref, const Tensor& targets,
                                  double lowered, bool accumulate_hidden, const Tensor& dlogits) {
    check_soft_labels("token_cross_entropy_backward", dce, hidden, w, hidden_ref, w_ref, targets, lowered);
    check_head_gradient("token_cross_entropy_backward", dhidden, dw, hidden, w);
    check_dlogits("token_cross_entropy_backward", dlogits, w, num_targets(targets));
    TIMED(heads, hidden,
          products(dlogits.defined() ? 2.0
                   : w_ref.defined() ? 4.0
                                     : 3.0,
                   num_targets(targets), w.dim(1), w.dim(0), bytes({&dhidden, &dw, &hidden, &w, &dlogits, &dlogits})));
    DISPATCH(hidden, token_cross_entropy_backward(dhidden, dw, dce, hidden, w, hidden_ref, w_ref, targets, lowered,
                                                  accumulate_hidden, dlogits));
}

void logits(const Tensor& out, const Tensor& hidden, const Tensor& w) { matmul(out, hidden, false, w, true); }

void argmax(const Tensor& y, const Tensor& x) {
    check(is_float(x) && x.rank() == 2 && x.dim(1) > 0 && is_index(y) && y.numel() == x.dim(0), "argmax",
          "i32 y[R], x[R,V] of a float type", {&y, &x});
    TIMED(heads, x, bytes({&x}));
    DISPATCH(x, argmax(y, x));
}

void adamw(const Tensor& w, const Tensor& rest, const Tensor& m, const Tensor& v, const Tensor& grad,
           const AdamWStep& step) {
    check(is_float(w) && m.shape() == w.shape() && alike(v, m) && is_acc(grad, w) && grad.shape() == w.shape(), "adamw",
          "w, m, v and grad of one shape, grad in the accumulator's type of w", {&w, &m, &v, &grad});
    check(w.dtype() == DType::bf16 ? alike(rest, w) : !rest.defined(), "adamw", "a rest beside w of bf16 alone",
          {&w, &rest});
    const bool halves = m.dtype() == DType::bf16 && grad.dtype() == DType::f32;
    check(m.dtype() == grad.dtype() || halves, "adamw", "m and v in the type of grad, or bf16 beside f32",
          {&m, &v, &grad});
    constexpr std::int64_t most = std::int64_t{1} << 32;
    require(!halves || (step.first >= 0 && step.first <= most - m.numel()), "adamw: elements ", step.first, " to ",
            step.first + m.numel(), " of a parameter; moments of bf16 are for one of at most 2^32");
    check(!step.squares.defined() || (step.squares.dtype() == DType::f64 && step.squares.numel() == 1), "adamw",
          "squares[1] of f64", {&w, &step.squares});
    TIMED(optimizer, w, bytes({&w, &w, &rest, &rest, &m, &m, &v, &v, &grad}));
    DISPATCH(w, adamw(w, rest, m, v, grad, step));
}

void extrapolate(const Tensor& y, const Tensor& x_u, const Tensor& x_0, double alpha) {
    check(is_float(y) && is_float(x_u) && is_float(x_0) && y.shape() == x_u.shape() && y.shape() == x_0.shape(),
          "extrapolate", "equal shapes, float types", {&y, &x_u, &x_0});
    TIMED(elementwise, y, bytes({&y, &x_u, &x_0}));
    DISPATCH(y, extrapolate(y, x_u, x_0, alpha));
}

void fill_normal(const Tensor& y, double std, std::uint64_t seed, std::uint64_t stream) {
    check(is_float(y), "fill_normal", "a float tensor", {&y});
    TIMED(elementwise, y, bytes({&y}));
    DISPATCH(y, fill_normal(y, std, seed, stream));
}

void fill_uniform(const Tensor& y, double bound, std::uint64_t seed, std::uint64_t stream) {
    check(is_float(y), "fill_uniform", "a float tensor", {&y});
    TIMED(elementwise, y, bytes({&y}));
    DISPATCH(y, fill_uniform(y, bound, seed, stream));
}

void dropout(const Tensor& y, const Tensor& x, const Tensor& places, double p, std::uint64_t seed, std::uint64_t stream,
             bool accumulate) {
    check(is_float(x) && x.rank() == 2 && alike(y, x) && is_index(places) && places.numel() == x.dim(0), "dropout",
          "y and x[T,C], places[T]", {&y, &x, &places});
    check_indices("dropout places", places, 0, std::int64_t{1} << 31);
    require(p >= 0.0 && p < 1.0, "dropout: a probability in [0, 1) is needed, not ", p);
    TIMED(elementwise, y, bytes({&y, &x}));
    DISPATCH(y, dropout(y, x, places, p, seed, stream, accumulate));
}

}  // namespace uipe::tensor
