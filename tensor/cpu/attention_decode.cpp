// Attention of one new token a row against a cache, and the cache's writes.
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "tensor/cpu/cpu.h"
#include "tensor/cpu/math.h"
#include "tensor/cpu/simd.h"
#include "tensor/parallel.h"

namespace uipe::tensor::cpu {
namespace {

/// p[n]: scores -> probabilities.
template <class A>
void softmax(A* p, std::int64_t n) {
    Vector<A> highest = Vector<A>{} - std::numeric_limits<A>::infinity();
    std::int64_t j = 0;
    for (; j + lanes<A> <= n; j += lanes<A>) {
        const Vector<A> s = load(p + j);
        highest = highest < s ? s : highest;
    }
    A most = -std::numeric_limits<A>::infinity();
    for (int i = 0; i < lanes<A>; ++i) most = std::max(most, highest[i]);
    for (; j < n; ++j) most = std::max(most, p[j]);
    each_vector<A>(0, n, [&](auto at) { at.store(p, fast_exp(at.load(p) - most)); });
    Vector<A> sums{};
    each_vector<A>(0, n, [&](auto at) { sums += at.load(p); });
    const A share = A{1} / sum_of(sums);
    each_vector<A>(0, n, [&](auto at) { at.store(p, at.load(p) * share); });
}

/// The query heads of `heads` key/value heads, G to each, q[heads*G,D], against n keys and values[heads*D], `step`
/// apart.
template <class T>
class Decode {
public:
    using A = acc_t<T>;
    Decode(std::int64_t heads, std::int64_t G, std::int64_t D, std::int64_t capacity)
        : heads_(heads),
          G_(G),
          D_(D),
          capacity_(capacity),
          q_(static_cast<std::size_t>(heads * G * D)),
          p_(static_cast<std::size_t>(heads * G * capacity)) {}

    void run(T* out, const T* q, const T* k, const T* v, std::int64_t n, std::int64_t step) {
        const A scale = A{1} / std::sqrt(static_cast<A>(D_));
        for (std::int64_t i = 0; i < heads_ * G_ * D_; ++i)
            q_[static_cast<std::size_t>(i)] = scale * static_cast<A>(q[i]);
        // Keys are read in the order of memory, all heads of one after the other, and its value is sent for meanwhile.
        for (std::int64_t j = 0; j < n; ++j) {
            for (std::int64_t i = 0; i < heads_ * D_; i += 64 / static_cast<std::int64_t>(sizeof(T)))
                __builtin_prefetch(v + j * step + i, 0, 2);
            for (std::int64_t h = 0; h < heads_ * G_; ++h)
                weights(h)[j] = dot(q_.data() + h * D_, k + j * step + h / G_ * D_);
        }
        for (std::int64_t h = 0; h < heads_ * G_; ++h) {
            softmax(weights(h), n);
            mean(out + h * D_, weights(h), v + h / G_ * D_, n, step);
        }
    }

private:
    A* weights(std::int64_t h) { return p_.data() + h * capacity_; }

    A dot(const A* query, const T* key) const {
        Vector<A> sums{};
        std::int64_t d = 0;
        for (; d + lanes<A> <= D_; d += lanes<A>) sums += load(query + d) * load(key + d);
        A rest = 0;
        for (; d < D_; ++d) rest += query[d] * static_cast<A>(key[d]);
        return sum_of(sums) + rest;
    }

    /// out[D] = the mean of n values weighed by p.
    void mean(T* out, const A* p, const T* v, std::int64_t n, std::int64_t step) const {
        std::int64_t d = 0;
        for (; d + 4 * lanes<A> <= D_; d += 4 * lanes<A>) mean_of_vectors<4>(out + d, p, v + d, n, step);
        for (; d + lanes<A> <= D_; d += lanes<A>) mean_of_vectors<1>(out + d, p, v + d, n, step);
        for (; d < D_; ++d) {
            A sum = 0;
            for (std::int64_t j = 0; j < n; ++j) sum += p[j] * static_cast<A>(v[j * step + d]);
            out[d] = static_cast<T>(sum);
        }
    }

    template <int vectors>
    static void mean_of_vectors(T* out, const A* p, const T* v, std::int64_t n, std::int64_t step) {
        Vector<A> sums[vectors] = {};
        for (std::int64_t j = 0; j < n; ++j)
            for (int c = 0; c < vectors; ++c) sums[c] += p[j] * load(v + j * step + c * lanes<A>);
        for (int c = 0; c < vectors; ++c) store(out + c * lanes<A>, sums[c]);
    }

    std::int64_t heads_, G_, D_, capacity_;
    std::vector<A> q_;  // [heads*G, D], scaled
    std::vector<A> p_;  // [heads*G, capacity]
};

}  // namespace

void attention_decode(const Tensor& out, const Tensor& q, const Tensor& cache_k, const Tensor& cache_v,
                      const Tensor& slots, const Tensor& lengths, std::int64_t head_dim) {
    const std::int64_t B = q.dim(0);
    const std::int64_t capacity = cache_k.dim(1);
    const std::int64_t row = cache_k.dim(2);
    const std::int64_t K = row / head_dim;
    const std::int64_t group = q.dim(1) / row;
    const std::int32_t* slot = slots.data<std::int32_t>();
    const std::int32_t* length = lengths.data<std::int32_t>();
    const std::int64_t heads = B >= 2 * num_threads() ? K : 1;  // few rows: the heads are shared out as well
    with_float(q.dtype(), [&]<class T>() {
        parallel_for(B * (K / heads), 1, [&](std::int64_t begin, std::int64_t end) {
            Decode<T> decode(heads, group, head_dim, capacity);
            for (std::int64_t item = begin; item < end; ++item) {
                const std::int64_t b = item / (K / heads);
                const std::int64_t kv = item % (K / heads) * head_dim;
                const std::int64_t query = b * q.dim(1) + kv * group;
                const std::int64_t key = slot[b] * capacity * row + kv;
                decode.run(out.data<T>() + query, q.data<T>() + query, cache_k.data<T>() + key, cache_v.data<T>() + key,
                           length[b], row);
            }
        });
    });
}

void cache_write(const Tensor& cache, const Tensor& x, const Tensor& slots, const Tensor& positions) {
    const std::size_t row = static_cast<std::size_t>(x.dim(1)) * size_of(x.dtype());
    const std::int32_t* slot = slots.data<std::int32_t>();
    const std::int32_t* position = positions.data<std::int32_t>();
    // In order of rows, so that the last of two rows for one place wins, every time.
    for (std::int64_t t = 0; t < x.dim(0); ++t)
        std::memcpy(
            static_cast<std::byte*>(cache.raw()) + static_cast<std::size_t>(slot[t] * cache.dim(1) + position[t]) * row,
            static_cast<const std::byte*>(x.raw()) + static_cast<std::size_t>(t) * row, row);
}

}  // namespace uipe::tensor::cpu
