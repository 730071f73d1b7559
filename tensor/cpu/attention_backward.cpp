// The gradient of causal attention (Dao et al. 2022, algorithm 4). A thread owns one sequence and one key/value head:
// it walks tiles of keys and, within, the tiles of queries that see them, so every sum has one owner and one order.
#include <cmath>
#include <vector>

#include "tensor/cpu/cpu.h"
#include "tensor/cpu/math.h"
#include "tensor/cpu/tile.h"
#include "tensor/parallel.h"

namespace uipe::tensor::cpu {
namespace {

constexpr std::int64_t query_rows = 32;
constexpr std::int64_t key_rows = 64;

/// One thread's tiles. With a group of G query heads, the gradient of their queries stays here until it is whole.
template <class A>
struct Workspace {
    Workspace(std::int64_t group_rows, std::int64_t D)
        : q(query_rows, D),
          dout(query_rows, D),
          k(key_rows, D),
          k_columns(D, key_rows),
          v_columns(D, key_rows),
          p(query_rows, key_rows),
          ds(query_rows, key_rows),
          dk(key_rows, D),
          dv(key_rows, D),
          part(query_rows, D),
          dq(group_rows, D),
          delta(static_cast<std::size_t>(group_rows)) {}

    Tile<A> q, dout;               // [queries, D]; q is scaled
    Tile<A> k;                     // [keys, D]
    Tile<A> k_columns, v_columns;  // [D, keys]
    Tile<A> p, ds;                 // [queries, keys]: probabilities, and the gradient of the scores
    Tile<A> dk, dv;                // [keys, D]
    Tile<A> part;                  // [queries, D]
    Tile<A> dq;                    // [G * rows, D], without the scale
    std::vector<A> delta;          // [G * rows]: dout · out
};

template <class T, class A>
void store(T* y, const A* x, std::int64_t D, A scale, bool accumulate) {
    for (std::int64_t d = 0; d < D; ++d)
        y[d] = static_cast<T>(accumulate ? static_cast<A>(y[d]) + scale * x[d] : scale * x[d]);
}

template <class T>
struct Backward {
    using A = acc_t<T>;
    T *dq, *dk, *dv;
    const T *dout, *q, *k, *v, *out;
    const A* lse;
    std::int64_t H, K, D;
    bool accumulate_q, accumulate_k, accumulate_v;

    std::int64_t group() const { return H / K; }
    A scale() const { return A{1} / std::sqrt(static_cast<A>(D)); }
    /// Offset of query head h in row t of q, out and their gradients.
    std::int64_t at(std::int64_t t, std::int64_t h) const { return (t * H + h) * D; }

    /// Rows [begin, end) and key/value head `kv`.
    void run(std::int64_t begin, std::int64_t end, std::int64_t kv, Workspace<A>& w) const {
        const std::int64_t rows = end - begin;
        for (std::int64_t g = 0; g < group(); ++g)
            for (std::int64_t i = 0; i < rows; ++i) {
                const std::int64_t row = at(begin + i, kv * group() + g);
                A s = 0;
#pragma omp simd reduction(+ : s)
                for (std::int64_t d = 0; d < D; ++d) s += static_cast<A>(dout[row + d]) * static_cast<A>(out[row + d]);
                w.delta[static_cast<std::size_t>(g * rows + i)] = s;
            }
        w.dq.zero(group() * rows);
        for (std::int64_t first = begin; first < end; first += key_rows)
            keys(begin, end, first, std::min(key_rows, end - first), kv, w);
        for (std::int64_t g = 0; g < group(); ++g)
            for (std::int64_t i = 0; i < rows; ++i)
                store(dq + at(begin + i, kv * group() + g), w.dq.row(g * rows + i), D, scale(), accumulate_q);
    }

    /// `count` keys from row `first`, against every query of the group that sees one of them.
    void keys(std::int64_t begin, std::int64_t end, std::int64_t first, std::int64_t count, std::int64_t kv,
              Workspace<A>& w) const {
        const std::int64_t from = (first * K + kv) * D;
        load_rows(w.k, k + from, K * D, count, D);
        load_columns(w.k_columns, k + from, K * D, count, D);
        load_columns(w.v_columns, v + from, K * D, count, D);
        w.dk.zero(key_rows);
        w.dv.zero(key_rows);
        for (std::int64_t g = 0; g < group(); ++g)
            for (std::int64_t t = first; t < end; t += query_rows)
                queries(t, std::min(query_rows, end - t), first, std::min(count, t + query_rows - first),
                        kv * group() + g, g * (end - begin) + t - begin, w);
        for (std::int64_t j = 0; j < count; ++j) {
            store(dk + from + j * K * D, w.dk.row(j), D, A{1}, accumulate_k);
            store(dv + from + j * K * D, w.dv.row(j), D, A{1}, accumulate_v);
        }
    }

    /// `count` queries of head h from row t against `keys` keys from row `first`; their state is at `slot`.
    void queries(std::int64_t t, std::int64_t count, std::int64_t first, std::int64_t keys, std::int64_t h,
                 std::int64_t slot, Workspace<A>& w) const {
        load_rows(w.q, q + at(t, h), H * D, count, D, scale());
        load_rows(w.dout, dout + at(t, h), H * D, count, D);
        tile_product<false>(w.p, plain(w.q), w.k_columns, count, keys, D);
        tile_product<false>(w.ds, plain(w.dout), w.v_columns, count, keys, D);
        for (std::int64_t i = 0; i < count; ++i)
            score_gradient(w.p.row(i), w.ds.row(i), round_up(keys, lanes<A>), t + i - first, lse[(t + i) * H + h],
                           w.delta[static_cast<std::size_t>(slot + i)]);
        tile_product<true>(w.dv, transposed(w.p), w.dout, keys, D, count);
        tile_product<true>(w.dk, transposed(w.ds), w.q, keys, D, count);
        tile_product<false>(w.part, plain(w.ds), w.k, count, D, keys);
        for (std::int64_t i = 0; i < count; ++i)
            for (std::int64_t d = 0; d < D; ++d) w.dq.row(slot + i)[d] += w.part.row(i)[d];
    }

    /// p: scores -> probabilities; ds: gradient of the probabilities -> of the scores; 0 past the query's key `last`.
    static void score_gradient(A* p, A* ds, std::int64_t n, std::int64_t last, A lse_of_row, A delta_of_row) {
        const std::int64_t seen = std::min(n, last + 1);
        for (std::int64_t j = 0; j < seen; ++j) {
            p[j] = fast_exp(p[j] - lse_of_row);
            ds[j] = p[j] * (ds[j] - delta_of_row);
        }
        for (std::int64_t j = seen; j < n; ++j) p[j] = ds[j] = 0;
    }
};

}  // namespace

void attention_backward(const Tensor& dq, const Tensor& dk, const Tensor& dv, const Tensor& dout, const Tensor& q,
                        const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
                        const Tensor& cu_seqlens, std::int64_t head_dim, bool accumulate_q, bool accumulate_k,
                        bool accumulate_v) {
    const std::int32_t* cu = cu_seqlens.data<std::int32_t>();
    const std::int64_t B = cu_seqlens.numel() - 1;
    const std::int64_t H = q.dim(1) / head_dim;
    const std::int64_t K = k.dim(1) / head_dim;
    std::int64_t longest = 0;
    for (std::int64_t b = 0; b < B; ++b) longest = std::max<std::int64_t>(longest, cu[b + 1] - cu[b]);
    with_float(q.dtype(), [&]<class T>() {
        const Backward<T> backward{dq.data<T>(),
                                   dk.data<T>(),
                                   dv.data<T>(),
                                   dout.data<T>(),
                                   q.data<T>(),
                                   k.data<T>(),
                                   v.data<T>(),
                                   out.data<T>(),
                                   lse.data<acc_t<T>>(),
                                   H,
                                   K,
                                   head_dim,
                                   accumulate_q,
                                   accumulate_k,
                                   accumulate_v};
        // Heads vary slowest: every thread then meets long and short sequences alike.
        parallel_for(K * B, 1, [&](std::int64_t begin, std::int64_t end) {
            Workspace<acc_t<T>> workspace(H / K * longest, head_dim);
            for (std::int64_t item = begin; item < end; ++item)
                backward.run(cu[item % B], cu[item % B + 1], item / B, workspace);
        });
    });
}

}  // namespace uipe::tensor::cpu
