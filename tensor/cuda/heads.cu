// token_logprob, token_kl, token_cross_entropy and argmax. As on the CPU: rows that carry no target are left out before
// the product, and logits exist for one chunk of rows at a time. The products are matmul's; the kernels here take one
// row of V logits a block, 8 neighbouring logits a thread at a time:
// * one pass over the row finds its largest, where that is, and the sum of exponentials, which is scaled anew whenever
//   the largest grows (Milakov & Gimelshein 2018);
// * a second pass, where the gradient is asked for, reads the row again, out of the cache.
// A row is not cut between blocks: even alone it takes a block a few microseconds, and the product that made it reads
// all of w, a hundred times as much.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "tensor/allocator.h"
#include "tensor/cpu/cpu.h"
#include "tensor/cuda/floats.h"
#include "tensor/head_rows.h"
#include "tensor/workspace.h"

namespace uipe::tensor::cuda {
namespace {

constexpr int width = 8;  // elements that a thread takes together
constexpr int most_threads = 512;
constexpr int nowhere = INT32_MAX;
constexpr float infinity = std::numeric_limits<float>::infinity();

struct Eight {
    float at[width];
};

/// Elements v and following of a row that ends at V; -infinity beyond. `vectors`: 16 bytes at a time; rows then begin
/// at multiples of 16 bytes, and V is a multiple of 8.
template <bool vectors, class T>
__device__ inline Eight load_eight(const T* row, int v, int V) {
    Eight x;
    if constexpr (vectors) {
        constexpr int size = dev::Vec<T>::size;
        for (int part = 0; part < width; part += size) {
            const dev::Vec<T> in = dev::load(row + v + part);
            for (int i = 0; i < size; ++i) x.at[part + i] = dev::to_float(in.at[i]);
        }
    } else {
        for (int i = 0; i < width; ++i) x.at[i] = v + i < V ? dev::to_float(row[v + i]) : -infinity;
    }
    return x;
}

template <bool vectors, class T>
__device__ inline void store_eight(T* row, int v, int V, const Eight& x) {
    if constexpr (vectors) {
        constexpr int size = dev::Vec<T>::size;
        for (int part = 0; part < width; part += size) {
            dev::Vec<T> out;
            for (int i = 0; i < size; ++i) out.at[i] = dev::to<T>(x.at[part + i]);
            dev::store(row + v + part, out);
        }
    } else {
        for (int i = 0; i < width; ++i)
            if (v + i < V) row[v + i] = dev::to<T>(x.at[i]);
    }
}

__device__ inline float exp_of(float x) { return dev::exp2(x * 1.44269504F); }

/// What one pass over logits leaves.
struct Softmax {
    float most = -infinity;
    float sum = 0.0F;  // of exp(x - base())
    int at = nowhere;  // the first place of the largest
    /// The largest; 0 before there is one, for -infinity less itself is NaN.
    __device__ float base() const { return most == -infinity ? 0.0F : most; }
};

__device__ inline Softmax merged(const Softmax& a, const Softmax& b) {
    Softmax y = a.most < b.most ? b : a;
    if (a.most == b.most) y.at = dev::min_of(a.at, b.at);
    y.sum = a.sum * exp_of(a.most - y.base()) + b.sum * exp_of(b.most - y.base());
    return y;
}

__device__ inline Softmax warp_merged(Softmax x DEV_AND_HERE) {
    for (int step = dev::warp_size / 2; step > 0; step /= 2) {
        Softmax other;
        other.most = dev::shuffle_xor(x.most, step DEV_AND_PASS);
        other.sum = dev::shuffle_xor(x.sum, step DEV_AND_PASS);
        other.at = dev::shuffle_xor(x.at, step DEV_AND_PASS);
        x = merged(x, other);
    }
    return x;
}

/// Of the whole block, in each of its threads. `buffer`: shared, one a warp.
__device__ inline Softmax block_merged(Softmax x, Softmax* buffer DEV_AND_HERE) {
    x = warp_merged(x DEV_AND_PASS);
    dev::sync(DEV_PASS);
    if (dev::lane() == 0) buffer[dev::warp()] = x;
    dev::sync(DEV_PASS);
    const int warps = dev::threads() / dev::warp_size;
    return warp_merged(dev::lane() < warps ? buffer[dev::lane()] : Softmax {} DEV_AND_PASS);
}

/// Of a row's logits, element `skipped` left out of the sum (-1: none).
template <bool vectors, class T>
__device__ inline Softmax softmax_of(const T* row, int V, int skipped, Softmax* buffer DEV_AND_HERE) {
    Softmax y;
    for (int v = dev::thread() * width; v < V; v += dev::threads() * width) {
        const Eight x = load_eight<vectors>(row, v, V);
        float top = y.most;
        for (int i = 0; i < width; ++i)
            if (x.at[i] > top) {
                top = x.at[i];
                y.at = v + i;
            }
        if (top > y.most) {
            y.sum *= exp_of(y.most - top);
            y.most = top;
        }
        const float base = y.base();
        for (int i = 0; i < width; ++i) y.sum += v + i == skipped ? 0.0F : exp_of(x.at[i] - base);
    }
    return block_merged(y, buffer DEV_AND_PASS);
}

__device__ inline std::int64_t row_start(int row, int V) { return static_cast<std::int64_t>(row) * V; }

/// Of each row of logits: logp at the row's place in the batch, the likeliest token and the gradient of logp by the
/// logits, onehot - softmax, which may overwrite the logits; each unless null. The target stands apart from the
/// sum of the others, for 1 - p and log p have no digit left of p where the model is sure.
template <class T, bool vectors>
__global__ void __launch_bounds__(most_threads)
    logprob_rows(float* logp, int* best, T* d, const float* logits, const int* rows, const int* targets, int V) {
    DEV_SHARED(Softmax, buffer, dev::warp_size);
    const int t = rows[dev::block_x()];
    const int target = targets[t];
    const float* x = logits + row_start(dev::block_x(), V);
    const float score = x[target];
    const Softmax s = softmax_of<vectors>(x, V, target, buffer);
    const float total = s.sum + exp_of(score - s.base());
    if (dev::thread() == 0) {
        if (logp != nullptr) logp[t] = score == s.most ? -dev::log1p(s.sum) : (score - s.base()) - dev::log(total);
        if (best != nullptr) best[dev::block_x()] = s.at == nowhere ? 0 : s.at;
    }
    if (d == nullptr) return;
    T* out = d + row_start(dev::block_x(), V);
    const float share = -1.0F / total;
    for (int v = dev::thread() * width; v < V; v += dev::threads() * width) {
        Eight y = load_eight<vectors>(x, v, V);
        for (int i = 0; i < width; ++i) y.at[i] = share * (v + i == target ? -s.sum : exp_of(y.at[i] - s.base()));
        store_eight<vectors>(out, v, V, y);
    }
}

/// Of each row of logits: mean and variance of log p(v) over a v drawn by p, at the row's place in moments[T,2].
template <bool vectors>
__global__ void __launch_bounds__(most_threads)
    moment_rows(float* moments, const float* logits, const int* rows, int V) {
    DEV_SHARED(Softmax, buffer, dev::warp_size);
    DEV_SHARED(float, sums, dev::warp_size);
    const float* x = logits + row_start(dev::block_x(), V);
    const Softmax s = softmax_of<vectors>(x, V, -1, buffer);
    const float share = 1.0F / s.sum;
    float mean = 0.0F;  // of the distance from the largest
    float square = 0.0F;
    for (int v = dev::thread() * width; v < V; v += dev::threads() * width) {
        const Eight y = load_eight<vectors>(x, v, V);
        for (int i = 0; i < width; ++i) {
            if (!vectors && v + i >= V) break;
            const float z = y.at[i] - s.base();
            const float p = share * exp_of(z);
            mean += p * z;
            square += p * z * z;
        }
    }
    mean = dev::block_sum(mean, sums);
    square = dev::block_sum(square, sums);
    if (dev::thread() != 0) return;
    float* out = moments + row_start(rows[dev::block_x()], 2);
    out[0] = mean - dev::log(s.sum);
    out[1] = square - mean * mean;
}

/// Lowers the target in each of n rows of logits.
__global__ void lower_targets(float* logits, const int* rows, const int* targets, float by, std::int64_t n, int V) {
    const std::int64_t i = static_cast<std::int64_t>(dev::block_x()) * dev::threads() + dev::thread();
    if (i < n) logits[i * V + targets[rows[i]]] -= by;
}

/// Of each row: KL(softmax(reference) || softmax(logits)), or the cross entropy of the two, at the row's place in the
/// batch (unless null) and its gradient by the logits, their difference, which may overwrite the logits.
template <class T, bool vectors, bool cross_entropy>
__global__ void __launch_bounds__(most_threads)
    divergence_rows(float* kl, T* d, const float* logits, const float* reference, const int* rows, int V) {
    DEV_SHARED(Softmax, buffer, dev::warp_size);
    DEV_SHARED(float, sums, dev::warp_size);
    const float* x = logits + row_start(dev::block_x(), V);
    const float* r = reference + row_start(dev::block_x(), V);
    const Softmax s = softmax_of<vectors>(x, V, -1, buffer);
    const Softmax s_ref = softmax_of<vectors>(r, V, -1, buffer);
    const float share = 1.0F / s.sum;
    const float share_ref = 1.0F / s_ref.sum;
    // log p_ref - log p = (r - x) - offset: differences of neighbours first, and exactly 0 between equals.
    const float offset = (s_ref.base() - s.base()) + (dev::log(s_ref.sum) - dev::log(s.sum));
    const float log_sum = dev::log(s.sum);
    float sum = 0.0F;
    T* out = d == nullptr ? nullptr : d + row_start(dev::block_x(), V);
    for (int v = dev::thread() * width; v < V; v += dev::threads() * width) {
        Eight y = load_eight<vectors>(x, v, V);
        const Eight q = load_eight<vectors>(r, v, V);
        for (int i = 0; i < width; ++i) {
            const float p_ref = share_ref * exp_of(q.at[i] - s_ref.base());
            if (vectors || v + i < V)
                sum += p_ref * (cross_entropy ? log_sum - (y.at[i] - s.base()) : (q.at[i] - y.at[i]) - offset);
            y.at[i] = share * exp_of(y.at[i] - s.base()) - p_ref;
        }
        if (out != nullptr) store_eight<vectors>(out, v, V, y);
    }
    sum = dev::block_sum(sum, sums);
    if (kl != nullptr && dev::thread() == 0) kl[rows[dev::block_x()]] = sum;
}

__device__ inline float log_add(float a, float b) {
    return dev::max_of(a, b) + dev::log1p(dev::exp(a < b ? a - b : b - a));
}

/// Of each row: the cross entropy against q = softmax(logits - lowered onehot(target)), which is constant, at the row's
/// place in the batch, and its gradient by the logits, p_y moved (onehot - q) of moved = 1 - e^-lowered, which may
/// overwrite them; each unless null. The logits are used up. The target stands apart, as in cpu/heads.cpp.
template <class T, bool vectors>
__global__ void __launch_bounds__(most_threads) own_label_rows(float* ce, T* d, float* logits, const int* rows,
                                                               const int* targets, float lowered, float moved, int V) {
    DEV_SHARED(Softmax, buffer, dev::warp_size);
    DEV_SHARED(float, sums, dev::warp_size);
    float* x = logits + row_start(dev::block_x(), V);
    const int t = rows[dev::block_x()];
    const int target = targets[t];
    const float score = x[target];
    dev::sync();
    if (dev::thread() == 0) x[target] = -infinity;
    dev::sync();
    const Softmax s = softmax_of<vectors>(x, V, -1, buffer);
    const float others = s.sum > 0.0F ? s.base() + dev::log(s.sum) : -infinity;
    const float label = score - lowered;
    const float lse = log_add(others, score);
    const float lse_labels = log_add(others, label);
    const float share = dev::exp(score - lse) * moved;
    T* out = d == nullptr ? nullptr : d + row_start(dev::block_x(), V);
    float sum = 0.0F;
    for (int v = dev::thread() * width; v < V; v += dev::threads() * width) {
        Eight y = load_eight<vectors>(x, v, V);
        for (int i = 0; i < width; ++i) {
            const float q = exp_of(y.at[i] - lse_labels);
            if (q > 0.0F) sum += q * (lse - y.at[i]);  // not 0 times infinity
            y.at[i] = v + i == target ? share * dev::exp(others - lse_labels) : -share * q;
        }
        if (out != nullptr) store_eight<vectors>(out, v, V, y);
    }
    sum = dev::block_sum(sum, sums);
    if (ce != nullptr && dev::thread() == 0) ce[t] = sum + dev::exp(label - lse_labels) * (lse - score);
}

template <class T, bool vectors>
__global__ void __launch_bounds__(most_threads) argmax_rows(int* best, const T* x, int V) {
    DEV_SHARED(Softmax, buffer, dev::warp_size);
    Softmax y;
    const T* row = x + row_start(dev::block_x(), V);
    for (int v = dev::thread() * width; v < V; v += dev::threads() * width) {
        const Eight e = load_eight<vectors>(row, v, V);
        for (int i = 0; i < width; ++i)
            if (e.at[i] > y.most) {
                y.most = e.at[i];
                y.at = v + i;
            }
    }
    y = block_merged(y, buffer);
    if (dev::thread() == 0) best[dev::block_x()] = y.at == nowhere ? 0 : y.at;
}

/// y[to[i]] (+)= scale[rows[i]] x[from[i]] over rows of C, i the block's; where `to` or `from` is null, i itself, and
/// no scale where that is null.
template <class Y, class X, bool vectors, bool accumulate>
__global__ void move_rows(Y* y, const int* to, const X* x, const int* from, const float* scale, const int* rows,
                          int C) {
    const int c = (dev::block_y() * dev::threads() + dev::thread()) * width;
    if (c >= C) return;
    const int i = dev::block_x();
    const float s = scale == nullptr ? 1.0F : scale[rows[i]];
    Y* out = y + row_start(to == nullptr ? i : to[i], C);
    Eight e = load_eight<vectors>(x + row_start(from == nullptr ? i : from[i], C), c, C);
    for (int j = 0; j < width; ++j) e.at[j] *= s;
    if constexpr (accumulate) {
        const Eight before = load_eight<vectors>(out, c, C);
        for (int j = 0; j < width; ++j) e.at[j] += before.at[j];
    }
    store_eight<vectors>(out, c, C, e);
}

// --- The host's part ----------------------------------------------------------------------------------------------

/// Whether rows of n elements, of each of these tensors (undefined ones aside), can be read in vectors.
template <class... T>
bool can_use_vectors(std::int64_t n, const T&... tensors) {
    return n % width == 0 && aligned(tensors...);
}

/// One block for each of n rows of V: of 512 threads, of which an SM holds four blocks; no more than the row has work
/// for. V alone decides, so that a row's bits depend neither on the chip nor on the rows beside it.
Launch over_rows(std::int64_t n, std::int64_t V) {
    return {.grid = {n}, .threads = threads_for(ceil_div(V, width), most_threads)};
}

int as_int(std::int64_t n) {
    require(n < nowhere / 2, "rows of ", n, " elements are too long for the CUDA backend");
    return static_cast<int>(n);
}

/// The rows of [0, T) that a head does not skip: an index tensor, for the device reads it too.
struct Rows {
    Tensor index;
    bool all = false;

    std::int64_t n() const { return index.numel(); }
    Rows part(std::int64_t begin, std::int64_t end) const { return {index.rows(begin, end), all}; }
    const int* on_device() const { return indices(index); }
};

Rows rows_of(const std::vector<std::int32_t>& rows, std::int64_t T) {
    const auto n = static_cast<std::int64_t>(rows.size());
    return {Tensor::from(rows, {n}), n == T};
}

/// Calls body(first, rows) for consecutive chunks of rows.
template <class Body>
void for_each_chunk(const Rows& rows, std::int64_t V, const Body& body) {
    const std::int64_t step = head_chunk(V, Device::Kind::cuda);
    for (std::int64_t first = 0; first < rows.n(); first += step)
        body(first, rows.part(first, std::min(first + step, rows.n())));
}

/// Launches move_rows over `rows`: y[to[i]] (+)= scale[rows[i]] x[from[i]].
void move(const Tensor& y, const int* to, const Tensor& x, const int* from, const Tensor& scale, const Rows& rows,
          bool accumulate) {
    const std::int64_t C = y.dim(1);
    constexpr int threads = 128;
    const Launch how{.grid = {rows.n(), ceil_div(C, threads * width)}, .threads = threads};
    with_float(y.dtype(), [&]<class Y>() {
        with_float(x.dtype(), [&]<class X>() {
            with_flag(can_use_vectors(C, y, x), [&]<bool vectors>() {
                with_flag(accumulate, [&]<bool adds>() {
                    launch(move_rows<Y, X, vectors, adds>, how, at<Y>(y), to, at<X>(x), from, at_or_null<float>(scale),
                           rows.on_device(), as_int(C));
                });
            });
        });
    });
}

/// The chosen rows of x[T,C], together, times scale[t] where that is defined.
Tensor gather(const Tensor& x, std::int64_t first, const Rows& rows, const Tensor& scale = {}) {
    if (rows.all && !scale.defined()) return x.rows(first, first + rows.n());
    const Tensor y = Tensor::empty({rows.n(), x.dim(1)}, x.dtype(), x.device());
    move(y, nullptr, x, rows.on_device(), scale, rows, false);
    return y;
}

/// hidden_rows[n,C] w[V,C]^T in f32: in the place of `d`, their gradient to be, where that is f32.
Tensor logits_of(const Tensor& hidden_rows, const Tensor& w, const Tensor& d = {}) {
    const bool shared = d.defined() && d.dtype() == DType::f32;
    Tensor y = shared ? d : Tensor::empty({hidden_rows.dim(0), w.dim(0)}, DType::f32, w.device());
    cuda::matmul(y, hidden_rows, false, w, true, false);
    return y;
}

/// The rows of `kept` that belong to a chunk; undefined when that is.
Tensor part_of(const Tensor& kept, std::int64_t first, std::int64_t n) {
    return kept.defined() ? kept.rows(first, first + n) : Tensor();
}

/// Sends the gradient scale[t] d[i] of these rows of logits on to dhidden and dw. The scale is applied to the factors
/// and results of width C, not to the far larger d[n,V].
void head_gradient(const Tensor& dhidden, const Tensor& dw, const Tensor& scale, const Tensor& d, const Tensor& hidden,
                   const Tensor& w, std::int64_t first, const Rows& rows, bool accumulate_hidden) {
    if (dw.defined()) cuda::matmul(dw, d, true, gather(hidden, first, rows, scale), false, true);
    if (!dhidden.defined()) return;
    const Tensor dx = Tensor::empty({rows.n(), w.dim(1)}, DType::f32, w.device());
    cuda::matmul(dx, d, false, w, false, false);
    move(dhidden, rows.on_device(), dx, nullptr, scale, rows, accumulate_hidden);
}

/// The gradient of the heads: from what the forward pass kept, else from chunks made by compute(first, rows).
template <class Compute>
void backward(const Tensor& dhidden, const Tensor& dw, const Tensor& dy, const Tensor& hidden, const Tensor& w,
              const Rows& all, const Tensor& kept, bool accumulate_hidden, const Compute& compute) {
    if (dhidden.defined() && !accumulate_hidden && !all.all) cuda::fill(dhidden, 0.0);
    if (all.n() == 0) return;
    if (kept.defined()) return head_gradient(dhidden, dw, dy, kept, hidden, w, 0, all, accumulate_hidden);
    for_each_chunk(all, w.dim(0), [&](std::int64_t first, const Rows& rows) {
        head_gradient(dhidden, dw, dy, compute(first, rows), hidden, w, first, rows, accumulate_hidden);
    });
}

/// Log-probabilities, likeliest tokens, the gradient by the logits and the moments of a chunk, each where its output is
/// defined.
void logprobs(const Tensor& logp, int* best, const Tensor& d, const Tensor& moments, const Tensor& hidden,
              const Tensor& w, const Tensor& targets, std::int64_t first, const Rows& rows) {
    const std::int64_t V = w.dim(0);
    const Tensor scores = logits_of(gather(hidden, first, rows), w, d);
    if (moments.defined())  // before the gradient, which may overwrite the logits
        with_flag(can_use_vectors(V, scores), [&]<bool vectors>() {
            launch(moment_rows<vectors>, over_rows(rows.n(), V), at<float>(moments), at<float>(scores),
                   rows.on_device(), as_int(V));
        });
    with_float(w.dtype(), [&]<class T>() {
        with_flag(can_use_vectors(V, scores, d), [&]<bool vectors>() {
            launch(logprob_rows<T, vectors>, over_rows(rows.n(), V), at_or_null<float>(logp), best, at_or_null<T>(d),
                   at<float>(scores), rows.on_device(), indices(targets), as_int(V));
        });
    });
}

/// What a row is compared with: softmax(hidden W^T), for cross entropies after its target was lowered.
struct Reference {
    const Tensor& hidden;  // undefined: the row itself
    const Tensor& w;
    const Tensor* targets = nullptr;  // none: a divergence
    double lowered = 0;
};

void own_cross_entropies(const Tensor& y, const Tensor& d, const Tensor& scores, const Tensor& w, const Reference& ref,
                         const Rows& rows) {
    const std::int64_t V = w.dim(0);
    with_float(w.dtype(), [&]<class T>() {
        with_flag(can_use_vectors(V, scores, d), [&]<bool vectors>() {
            launch(own_label_rows<T, vectors>, over_rows(rows.n(), V), at_or_null<float>(y), at_or_null<T>(d),
                   at<float>(scores), rows.on_device(), indices(*ref.targets), static_cast<float>(ref.lowered),
                   static_cast<float>(-std::expm1(-ref.lowered)), as_int(V));
        });
    });
}

void divergences(const Tensor& y, const Tensor& d, const Tensor& hidden, const Tensor& w, const Reference& ref,
                 std::int64_t first, const Rows& rows) {
    const std::int64_t V = w.dim(0);
    const Tensor scores = logits_of(gather(hidden, first, rows), w, d);
    if (!ref.w.defined()) return own_cross_entropies(y, d, scores, w, ref, rows);
    const Tensor reference = logits_of(gather(ref.hidden, first, rows), ref.w);
    constexpr int threads = 128;
    if (ref.targets != nullptr)
        launch(lower_targets, {.grid = {ceil_div(rows.n(), threads)}, .threads = threads}, at<float>(reference),
               rows.on_device(), indices(*ref.targets), static_cast<float>(ref.lowered), rows.n(), as_int(V));
    with_float(w.dtype(), [&]<class T>() {
        with_flag(can_use_vectors(V, scores, reference, d), [&]<bool vectors>() {
            with_flag(ref.targets != nullptr, [&]<bool cross_entropy>() {
                launch(divergence_rows<T, vectors, cross_entropy>, over_rows(rows.n(), V), at_or_null<float>(y),
                       at_or_null<T>(d), at<float>(scores), at<float>(reference), rows.on_device(), as_int(V));
            });
        });
    });
}

void compare(const Tensor& y, const Tensor& hidden, const Tensor& w, const Reference& ref, const Rows& all,
             const Tensor& dlogits) {
    if (!all.all) cuda::fill(y, 0.0);
    for_each_chunk(all, w.dim(0), [&](std::int64_t first, const Rows& rows) {
        divergences(y, part_of(dlogits, first, rows.n()), hidden, w, ref, first, rows);
    });
}

void compare_backward(const Tensor& dhidden, const Tensor& dw, const Tensor& dy, const Tensor& hidden, const Tensor& w,
                      const Reference& ref, const Rows& all, bool accumulate_hidden, const Tensor& dlogits) {
    const auto compute = [&](std::int64_t first, const Rows& rows) {
        const Tensor d = Tensor::empty({rows.n(), w.dim(0)}, w.dtype(), w.device());
        divergences({}, d, hidden, w, ref, first, rows);
        return d;
    };
    backward(dhidden, dw, dy, hidden, w, all, dlogits, accumulate_hidden, compute);
}

Rows targeted(const Tensor& targets) { return rows_of(rows_with_target(targets), targets.numel()); }
Rows masked(const Tensor& mask, std::int64_t T) { return rows_of(rows_in_mask(T, mask), T); }

/// n integers on the device.
std::shared_ptr<int> device_ints(std::int64_t n) {
    return std::static_pointer_cast<int>(allocate(static_cast<std::size_t>(n) * sizeof(int), {Device::Kind::cuda}));
}

std::vector<int> downloaded(const int* from, std::int64_t n) {
    std::vector<int> here(static_cast<std::size_t>(n));
    if (n > 0) download(here.data(), from, here.size() * sizeof(int));
    return here;
}

}  // namespace

void token_logprob(const Tensor& logp, const Tensor& hidden, const Tensor& w, const Tensor& targets,
                   const Tensor& argmax, const Tensor& dlogits, const Tensor& moments) {
    const Rows all = targeted(targets);
    if (!all.all) cuda::fill(logp, 0.0);
    if (!all.all && moments.defined()) cuda::fill(moments, 0.0);
    const std::shared_ptr<int> best = argmax.defined() ? device_ints(all.n()) : nullptr;
    for_each_chunk(all, w.dim(0), [&](std::int64_t first, const Rows& rows) {
        logprobs(logp, best == nullptr ? nullptr : best.get() + first, part_of(dlogits, first, rows.n()), moments,
                 hidden, w, targets, first, rows);
    });
    if (best == nullptr) return;
    cpu::fill(argmax, -1);
    argmax.device_copy().reset();
    const std::vector<int> here = downloaded(best.get(), all.n());
    for (std::size_t i = 0; i < here.size(); ++i)
        argmax.data<std::int32_t>()[all.index.data<std::int32_t>()[i]] = here[i];
}

void token_logprob_backward(const Tensor& dhidden, const Tensor& dw, const Tensor& dlogp, const Tensor& hidden,
                            const Tensor& w, const Tensor& targets, bool accumulate_hidden, const Tensor& dlogits) {
    const auto compute = [&](std::int64_t first, const Rows& rows) {
        const Tensor d = Tensor::empty({rows.n(), w.dim(0)}, w.dtype(), w.device());
        logprobs({}, nullptr, d, {}, hidden, w, targets, first, rows);
        return d;
    };
    backward(dhidden, dw, dlogp, hidden, w, targeted(targets), dlogits, accumulate_hidden, compute);
}

void token_kl(const Tensor& kl, const Tensor& hidden, const Tensor& w, const Tensor& hidden_ref, const Tensor& w_ref,
              const Tensor& mask, const Tensor& dlogits) {
    compare(kl, hidden, w, {hidden_ref, w_ref}, masked(mask, kl.numel()), dlogits);
}

void token_kl_backward(const Tensor& dhidden, const Tensor& dw, const Tensor& dkl, const Tensor& hidden,
                       const Tensor& w, const Tensor& hidden_ref, const Tensor& w_ref, const Tensor& mask,
                       bool accumulate_hidden, const Tensor& dlogits) {
    compare_backward(dhidden, dw, dkl, hidden, w, {hidden_ref, w_ref}, masked(mask, dkl.numel()), accumulate_hidden,
                     dlogits);
}

void token_cross_entropy(const Tensor& ce, const Tensor& hidden, const Tensor& w, const Tensor& hidden_ref,
                         const Tensor& w_ref, const Tensor& targets, double lowered, const Tensor& dlogits) {
    compare(ce, hidden, w, {hidden_ref, w_ref, &targets, lowered}, targeted(targets), dlogits);
}

void token_cross_entropy_backward(const Tensor& dhidden, const Tensor& dw, const Tensor& dce, const Tensor& hidden,
                                  const Tensor& w, const Tensor& hidden_ref, const Tensor& w_ref, const Tensor& targets,
                                  double lowered, bool accumulate_hidden, const Tensor& dlogits) {
    compare_backward(dhidden, dw, dce, hidden, w, {hidden_ref, w_ref, &targets, lowered}, targeted(targets),
                     accumulate_hidden, dlogits);
}

void argmax(const Tensor& y, const Tensor& x) {
    const std::int64_t R = x.dim(0);
    const std::int64_t V = x.dim(1);
    if (R == 0) return;
    const std::shared_ptr<int> best = device_ints(R);
    with_float(x.dtype(), [&]<class T>() {
        with_flag(can_use_vectors(V, x), [&]<bool vectors>() {
            launch(argmax_rows<T, vectors>, over_rows(R, V), best.get(), at<T>(x), as_int(V));
        });
    });
    download(y.raw(), best.get(), y.nbytes());
    y.device_copy().reset();
}

}  // namespace uipe::tensor::cuda
