// The gradient of causal attention (Dao et al. 2022, algorithm 4). A thread owns one sequence and one key/value head:
// it walks tiles of keys and, within, the tiles of queries that see them, so every sum has one owner and one order.
#include <algorithm>
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

/// The rows of a tensor as both operands of a product: on the left, summed along a row, and on the right, summed over
/// the rows. They differ in bf16 alone.
template <class T>
struct BothSides {
    using E = element_t<T>;
    BothSides(std::int64_t rows, std::int64_t D, Device device)
        : left_(rows, ceil_div(D, numbers<T>), device),
          right_(numbers<T> == 1 ? 0 : ceil_div(rows, numbers<T>), D, device) {}

    void load(std::int64_t at, const T* x, std::int64_t step, std::int64_t n, std::int64_t D) {
        load_left(left_, at, x, step, n, D);
        if constexpr (numbers<T> == 2) load_right(right_, at / numbers<T>, x, step, n, D);
    }
    const Tile<E>& left() const { return left_; }
    const Tile<E>& right() const { return numbers<T> == 1 ? left_ : right_; }

private:
    Tile<E> left_, right_;
};

/// One thread's tiles. What belongs to the queries of a group of G heads is kept for all of a sequence.
template <class T>
struct Workspace {
    using A = acc_t<T>;
    using E = element_t<T>;
    Workspace(std::int64_t group_rows, std::int64_t D, Device device)
        : q(group_rows, D, device),
          dout(group_rows, D, device),
          k(key_rows, D, device),
          k_columns(ceil_div(D, numbers<T>), key_rows, device),
          v_columns(ceil_div(D, numbers<T>), key_rows, device),
          p(query_rows, key_rows, device),
          ds(query_rows, key_rows, device),
          pairs(numbers<T> == 1 ? 0 : query_rows / 2, key_rows, device),
          ds_left(numbers<T> == 1 ? 0 : query_rows, key_rows / 2, device),
          dk(key_rows, D, device),
          dv(key_rows, D, device),
          dq(group_rows, D, device),
          delta(static_cast<std::size_t>(group_rows)) {}

    BothSides<T> q, dout;          // [G * rows, D]
    BothSides<T> k;                // [keys, D]
    Tile<E> k_columns, v_columns;  // [D, keys]
    Tile<A> p, ds;                 // [queries, keys]: probabilities, and the gradient of the scores
    Tile<E> pairs, ds_left;        // those in bf16: p or ds as [queries, keys] down its columns; ds along its rows
    Tile<A> dk, dv;                // [keys, D], dk without the scale
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
    /// Where the workspace keeps the first query of head g of the group. Each starts a block of rows.
    static std::int64_t slot(std::int64_t g, std::int64_t rows) { return g * round_up(rows, query_rows); }

    /// Rows [begin, end) and key/value head `kv`.
    void run(std::int64_t begin, std::int64_t end, std::int64_t kv, Workspace<T>& w) const {
        const std::int64_t rows = end - begin;
        for (std::int64_t g = 0; g < group(); ++g) load_queries(begin, rows, kv * group() + g, slot(g, rows), w);
        w.dq.zero(slot(group(), rows));
        for (std::int64_t first = begin; first < end; first += key_rows)
            keys(begin, end, first, std::min(key_rows, end - first), kv, w);
        for (std::int64_t g = 0; g < group(); ++g)
            for (std::int64_t i = 0; i < rows; ++i)
                store(dq + at(begin + i, kv * group() + g), w.dq.row(slot(g, rows) + i), D, scale(), accumulate_q);
    }

    void load_queries(std::int64_t begin, std::int64_t rows, std::int64_t h, std::int64_t to, Workspace<T>& w) const {
        w.q.load(to, q + at(begin, h), H * D, rows, D);
        w.dout.load(to, dout + at(begin, h), H * D, rows, D);
        for (std::int64_t i = 0; i < rows; ++i) {
            const std::int64_t row = at(begin + i, h);
            Vector<A> s{};
            each_vector<A>(row, row + D, [&](auto place) { s += place.load(dout) * place.load(out); });
            w.delta[static_cast<std::size_t>(to + i)] = sum_of(s);
        }
    }

    /// `count` keys from row `first`, against every query of the group that sees one of them.
    void keys(std::int64_t begin, std::int64_t end, std::int64_t first, std::int64_t count, std::int64_t kv,
              Workspace<T>& w) const {
        const std::int64_t from = (first * K + kv) * D;
        w.k.load(0, k + from, K * D, count, D);
        load_right_transposed(w.k_columns, k + from, K * D, count, D);
        load_right_transposed(w.v_columns, v + from, K * D, count, D);
        w.dk.zero(key_rows);
        w.dv.zero(key_rows);
        for (std::int64_t g = 0; g < group(); ++g)
            for (std::int64_t t = first; t < end; t += query_rows)
                queries(t, std::min(query_rows, end - t), first, std::min(count, t + query_rows - first),
                        kv * group() + g, slot(g, end - begin) + t - begin, w);
        for (std::int64_t j = 0; j < count; ++j) {
            store(dk + from + j * K * D, w.dk.row(j), D, scale(), accumulate_k);
            store(dv + from + j * K * D, w.dv.row(j), D, A{1}, accumulate_v);
        }
    }

    /// `count` queries of head h from row t against `keys` keys from row `first`; the workspace has them at `slot`.
    void queries(std::int64_t t, std::int64_t count, std::int64_t first, std::int64_t keys, std::int64_t h,
                 std::int64_t slot, Workspace<T>& w) const {
        const std::int64_t elements = ceil_div(D, numbers<T>);
        const std::int64_t right = slot / numbers<T>;
        tile_product<false>(w.p, 0, plain(w.q.left(), slot), w.k_columns, 0, count, keys, elements);
        tile_product<false>(w.ds, 0, plain(w.dout.left(), slot), w.v_columns, 0, count, keys, elements);
        const std::int64_t width = round_up(keys, 2 * lanes<A>);
        for (std::int64_t i = 0; i < count; ++i)
            score_gradient(w.p.row(i), w.ds.row(i), width, t + i - first, lse[(t + i) * H + h],
                           w.delta[static_cast<std::size_t>(slot + i)]);
        if constexpr (numbers<T> == 1) {
            tile_product<true>(w.dv, 0, transposed(w.p), w.dout.right(), right, keys, D, count);
            tile_product<true>(w.dk, 0, transposed(w.ds), w.q.right(), right, keys, D, count);
            tile_product<true>(w.dq, slot, plain(w.ds), w.k.right(), 0, count, D, keys);
        } else {
            const std::int64_t pairs = ceil_div(count, 2);
            pair_rows(w.pairs, w.p, count, width);
            tile_product<true>(w.dv, 0, transposed(w.pairs), w.dout.right(), right, keys, D, pairs);
            pair_rows(w.pairs, w.ds, count, width);
            tile_product<true>(w.dk, 0, transposed(w.pairs), w.q.right(), right, keys, D, pairs);
            pair_columns(w.ds_left, w.ds, count, width);
            tile_product<true>(w.dq, slot, plain(w.ds_left), w.k.right(), 0, count, D, ceil_div(keys, 2));
        }
    }

    /// p: scores -> probabilities; ds: gradient of the probabilities -> of the scores; 0 past the query's key `last`.
    void score_gradient(A* p, A* ds, std::int64_t n, std::int64_t last, A lse_of_row, A delta_of_row) const {
        const std::int64_t seen = std::clamp<std::int64_t>(last + 1, 0, n);
        const A s = scale();
        for (std::int64_t j = 0; j < seen; j += lanes<A>) {
            const Vector<A> x = s * cpu::load(p + j) - lse_of_row;
            // Above 0 by rounding alone, but far above where scores are huge.
            const Vector<A> e = fast_exp(x > 0 ? Vector<A>{} : x);
            cpu::store(ds + j, e * (cpu::load(ds + j) - delta_of_row));
            cpu::store(p + j, e);
        }
        std::fill(p + seen, p + n, A{0});
        std::fill(ds + seen, ds + n, A{0});
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
    std::vector<std::int64_t> costs;  // heads vary slowest
    for (std::int64_t item = 0; item < K * B; ++item) {
        const std::int64_t n = cu[item % B + 1] - cu[item % B];
        longest = std::max(longest, n);
        costs.push_back(n * (n + key_rows));
    }
    with_float(q.dtype(), [&]<class T>() {
        const auto workspace_on = [&](Device device) {
            return Workspace<T>(H / K * round_up(longest, query_rows), head_dim, device);
        };
        if (q.device() != Device{}) return take_workspaces(costs, [&] { return workspace_on(q.device()); });
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
        parallel_for_costs(costs, [&](std::size_t begin, std::size_t end) {
            const AmxRegisters registers;
            Workspace<T> workspace = workspace_on({});
            for (auto item = static_cast<std::int64_t>(begin); item < static_cast<std::int64_t>(end); ++item)
                backward.run(cu[item % B], cu[item % B + 1], item / B, workspace);
        });
    });
}

}  // namespace uipe::tensor::cpu
