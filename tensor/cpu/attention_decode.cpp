// Attention of one new token a row against a cache, and the cache's writes. Reading the cache is the cost, so each
// key and value is read once for the whole group of query heads that share it.
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "tensor/cpu/cpu.h"
#include "tensor/cpu/math.h"
#include "tensor/parallel.h"

namespace uipe::tensor::cpu {
namespace {

/// p[n]: scores -> probabilities.
template <class A>
void softmax(A* p, std::int64_t n) {
    A most = -std::numeric_limits<A>::infinity();
    for (std::int64_t j = 0; j < n; ++j) most = std::max(most, p[j]);
    A total = 0;
    for (std::int64_t j = 0; j < n; ++j) {
        p[j] = fast_exp(p[j] - most);
        total += p[j];
    }
    for (std::int64_t j = 0; j < n; ++j) p[j] /= total;
}

/// G query heads q[G,D] against n keys and values, `step` elements apart.
template <class T>
class Decode {
public:
    using A = acc_t<T>;
    Decode(std::int64_t G, std::int64_t D, std::int64_t capacity)
        : G_(G), D_(D), p_(static_cast<std::size_t>(G * capacity)), sum_(static_cast<std::size_t>(G * D)) {}

    void run(T* out, const T* q, const T* k, const T* v, std::int64_t n, std::int64_t step) {
        const A scale = A{1} / std::sqrt(static_cast<A>(D_));
        for (std::int64_t j = 0; j < n; ++j)
            for (std::int64_t g = 0; g < G_; ++g) {
                A s = 0;
#pragma omp simd reduction(+ : s)
                for (std::int64_t d = 0; d < D_; ++d)
                    s += static_cast<A>(q[g * D_ + d]) * static_cast<A>(k[j * step + d]);
                p_[static_cast<std::size_t>(g * n + j)] = s * scale;
            }
        for (std::int64_t g = 0; g < G_; ++g) softmax(p_.data() + g * n, n);
        std::fill(sum_.begin(), sum_.end(), A{0});
        for (std::int64_t j = 0; j < n; ++j)
            for (std::int64_t g = 0; g < G_; ++g) {
                const A weight = p_[static_cast<std::size_t>(g * n + j)];
                A* sum = sum_.data() + g * D_;
                for (std::int64_t d = 0; d < D_; ++d) sum[d] += weight * static_cast<A>(v[j * step + d]);
            }
        for (std::int64_t i = 0; i < G_ * D_; ++i) out[i] = static_cast<T>(sum_[static_cast<std::size_t>(i)]);
    }

private:
    std::int64_t G_, D_;
    std::vector<A> p_;    // [G, n]
    std::vector<A> sum_;  // [G, D]
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
    with_float(q.dtype(), [&]<class T>() {
        parallel_for(B * K, 1, [&](std::int64_t begin, std::int64_t end) {
            Decode<T> decode(group, head_dim, capacity);
            for (std::int64_t item = begin; item < end; ++item) {
                const std::int64_t b = item / K;
                const std::int64_t kv = item % K * head_dim;
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
