// Causal attention over a packed batch, forward: tiles of queries against tiles of keys with the online softmax
// (Dao et al. 2022, algorithm 1). Scores are held transposed, [keys, queries]: the maximum and the sum of a softmax
// then run down the columns of a tile, query beside query in one vector register.
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "tensor/cpu/cpu.h"
#include "tensor/cpu/math.h"
#include "tensor/cpu/tile.h"
#include "tensor/parallel.h"

namespace uipe::tensor::cpu {
namespace {

constexpr std::int64_t query_rows = 32;
constexpr std::int64_t key_rows = 64;

/// Queries [begin, end) of a sequence whose keys start at row `first_key`; query t is the token of key t + shift.
struct QueryTile {
    std::int64_t begin, end, first_key, shift;
};

std::vector<QueryTile> query_tiles(const Tensor& cu_queries, const Tensor& cu_keys) {
    const std::int32_t* q = cu_queries.data<std::int32_t>();
    const std::int32_t* k = cu_keys.data<std::int32_t>();
    std::vector<QueryTile> tiles;
    for (std::int64_t b = 0; b + 1 < cu_queries.numel(); ++b)
        for (std::int64_t t = q[b]; t < q[b + 1]; t += query_rows)
            tiles.push_back({t, std::min<std::int64_t>(t + query_rows, q[b + 1]), k[b], k[b + 1] - q[b + 1]});
    return tiles;
}

/// One thread's tiles, and the state of the softmax of one tile of queries.
template <class A>
struct Workspace {
    explicit Workspace(std::int64_t D)
        : q(D, query_rows), k(key_rows, D), v(key_rows, D), scores(key_rows, query_rows), out(query_rows, D) {}

    Tile<A> q;       // [D, queries], scaled
    Tile<A> k, v;    // [keys, D]
    Tile<A> scores;  // [keys, queries]
    Tile<A> out;     // [queries, D], not yet divided by `total`
    std::array<A, query_rows> most, total;
};

/// Hides the keys after each query. `lead` is the first query's own key less the tile's first. Every query sees the
/// first tile's first key, so that its softmax never starts from keys that are all hidden.
template <class A>
void mask_future(Tile<A>& scores, std::int64_t keys, std::int64_t lead) {
    for (std::int64_t j = std::max<std::int64_t>(0, lead + 1); j < keys; ++j)
        std::fill_n(scores.row(j), std::min(j - lead, query_rows), -std::numeric_limits<A>::infinity());
}

/// Turns the scores of one tile of keys into exp(score - most), moving `most` and what was summed under the old one.
template <class A>
void online_softmax(Workspace<A>& w, std::int64_t keys, std::int64_t queries, std::int64_t D) {
    std::array<A, query_rows> most = w.most;
    for (std::int64_t j = 0; j < keys; ++j) {
        const A* s = w.scores.row(j);
        for (std::size_t i = 0; i < query_rows; ++i) most[i] = most[i] < s[i] ? s[i] : most[i];
    }
    std::array<A, query_rows> shrink;
    for (std::size_t i = 0; i < query_rows; ++i) {
        shrink[i] = fast_exp(w.most[i] - most[i]);
        w.total[i] *= shrink[i];
    }
    for (std::int64_t j = 0; j < keys; ++j) {
        A* s = w.scores.row(j);
        for (std::size_t i = 0; i < query_rows; ++i) {
            s[i] = fast_exp(s[i] - most[i]);
            w.total[i] += s[i];
        }
    }
    for (std::int64_t i = 0; i < queries; ++i)
        for (std::int64_t d = 0; d < D; ++d) w.out.row(i)[d] *= shrink[static_cast<std::size_t>(i)];
    w.most = most;
}

template <class T>
struct Forward {
    using A = acc_t<T>;
    const T *q, *k, *v;
    T* out;
    A* lse;
    std::int64_t H, K, D;

    void run(const QueryTile& tile, std::int64_t h, Workspace<A>& w) const {
        const std::int64_t queries = tile.end - tile.begin;
        const std::int64_t kv = h / (H / K) * D;
        load_columns(w.q, q + tile.begin * H * D + h * D, H * D, queries, D, A{1} / std::sqrt(static_cast<A>(D)));
        w.most.fill(-std::numeric_limits<A>::infinity());
        w.total.fill(0);
        w.out.zero(query_rows);
        const std::int64_t end = tile.end + tile.shift;
        for (std::int64_t first = tile.first_key; first < end; first += key_rows) {
            const std::int64_t keys = std::min(key_rows, end - first);
            load_rows(w.k, k + first * K * D + kv, K * D, keys, D);
            load_rows(w.v, v + first * K * D + kv, K * D, keys, D);
            tile_product<false>(w.scores, plain(w.k), w.q, keys, queries, D);
            mask_future(w.scores, keys, tile.begin + tile.shift - first);
            online_softmax(w, keys, queries, D);
            tile_product<true>(w.out, transposed(w.scores), w.v, queries, D, keys);
        }
        for (std::int64_t i = 0; i < queries; ++i) {
            const auto at = static_cast<std::size_t>(i);
            T* y = out + (tile.begin + i) * H * D + h * D;
            for (std::int64_t d = 0; d < D; ++d) y[d] = static_cast<T>(w.out.row(i)[d] / w.total[at]);
            lse[(tile.begin + i) * H + h] = w.most[at] + std::log(w.total[at]);
        }
    }
};

}  // namespace

void attention(const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v,
               const Tensor& cu_queries, const Tensor& cu_keys, std::int64_t head_dim) {
    const std::vector<QueryTile> tiles = query_tiles(cu_queries, cu_keys);
    const auto count = static_cast<std::int64_t>(tiles.size());
    const std::int64_t H = q.dim(1) / head_dim;
    with_float(q.dtype(), [&]<class T>() {
        const Forward<T> forward{q.data<T>(),          k.data<T>(), v.data<T>(),         out.data<T>(),
                                 lse.data<acc_t<T>>(), H,           k.dim(1) / head_dim, head_dim};
        // Heads vary slowest: later tiles of a sequence cost more, and every thread gets its share of them.
        parallel_for(H * count, 1, [&](std::int64_t begin, std::int64_t end) {
            Workspace<acc_t<T>> workspace(head_dim);
            for (std::int64_t item = begin; item < end; ++item)
                forward.run(tiles[static_cast<std::size_t>(item % count)], item / count, workspace);
        });
    });
}

}  // namespace uipe::tensor::cpu
