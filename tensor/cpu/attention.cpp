// Causal attention over a packed batch, forward: tiles of queries against tiles of keys with the online softmax
// (Dao et al. 2022, algorithm 1). Scores are held transposed, [keys, queries]: the maximum and the sum of a softmax
// then run down the columns of a tile, query beside query in one vector register.
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

/// Queries [begin, end) of head h in a sequence whose keys start at row `first_key`; query t is the token of key
/// t + shift.
struct QueryTile {
    std::int64_t h, begin, end, first_key, shift;
    /// The keys that the last query sees.
    std::int64_t keys() const { return end + shift - first_key; }
};

/// Every tile of every head; those that read the same keys follow each other.
std::vector<QueryTile> query_tiles(const Tensor& cu_queries, const Tensor& cu_keys, std::int64_t H, std::int64_t K) {
    const std::int32_t* q = cu_queries.data<std::int32_t>();
    const std::int32_t* k = cu_keys.data<std::int32_t>();
    std::vector<QueryTile> tiles;
    for (std::int64_t kv = 0; kv < K; ++kv)
        for (std::int64_t b = 0; b + 1 < cu_queries.numel(); ++b)
            for (std::int64_t h = kv * (H / K); h < (kv + 1) * (H / K); ++h)
                for (std::int64_t t = q[b]; t < q[b + 1]; t += query_rows)
                    tiles.push_back(
                        {h, t, std::min<std::int64_t>(t + query_rows, q[b + 1]), k[b], k[b + 1] - q[b + 1]});
    return tiles;
}

/// A number for each query of a tile.
template <class A>
struct PerQuery {
    static constexpr int size = query_rows / lanes<A>;
    Vector<A> vectors[size];

    void fill(A x) {
        for (Vector<A>& v : vectors) v = Vector<A>{} + x;
    }
    A operator[](std::int64_t i) const { return vectors[i / lanes<A>][i % lanes<A>]; }
};

/// One thread's tiles, and the state of the softmax of one tile of queries.
template <class T>
struct Workspace {
    using A = acc_t<T>;
    using E = element_t<T>;
    Workspace(std::int64_t most_keys, std::int64_t D, Device device)
        : k(round_up(most_keys, key_rows), ceil_div(D, numbers<T>), device),
          v(ceil_div(round_up(most_keys, key_rows), numbers<T>), D, device),
          q(ceil_div(D, numbers<T>), query_rows, device),
          scores(key_rows, query_rows, device),
          pairs(numbers<T> == 1 ? 0 : key_rows / numbers<T>, query_rows, device),
          out(query_rows, D, device) {}

    Tile<E> k, v;    // the keys and values of a sequence and head, [keys, D]
    Tile<E> q;       // [D, queries]
    Tile<A> scores;  // [keys, queries]
    Tile<E> pairs;   // probabilities in bf16
    Tile<A> out;     // [queries, D], not yet divided by `total`
    PerQuery<A> most, total;

    std::int64_t first_key = -1, kv = -1, loaded = 0;  // what k and v hold
};

/// Hides the keys after each query. `lead` is the first query's own key less the tile's first. Every query sees the
/// first tile's first key, so that its softmax never starts from keys that are all hidden.
template <class A>
void mask_future(Tile<A>& scores, std::int64_t keys, std::int64_t lead) {
    for (std::int64_t j = std::max<std::int64_t>(0, lead + 1); j < keys; ++j)
        std::fill_n(scores.row(j), std::min(j - lead, query_rows), -std::numeric_limits<A>::infinity());
}

/// Turns the scores of one tile of keys into exp(scale (score - most)), moving `most` and what was summed under the old
/// one.
template <class T, class A>
void online_softmax(Workspace<T>& w, std::int64_t keys, std::int64_t queries, std::int64_t D, A scale) {
    constexpr int size = PerQuery<A>::size;
    PerQuery<A> most = w.most;
    for (std::int64_t j = 0; j < keys; ++j) {
        const auto* s = reinterpret_cast<const Vector<A>*>(w.scores.row(j));
        for (int c = 0; c < size; ++c) most.vectors[c] = most.vectors[c] < s[c] ? s[c] : most.vectors[c];
    }
    PerQuery<A> shrink, total;
    for (int c = 0; c < size; ++c) {
        shrink.vectors[c] = fast_exp(scale * (w.most.vectors[c] - most.vectors[c]));
        total.vectors[c] = w.total.vectors[c] * shrink.vectors[c];
    }
    for (std::int64_t j = 0; j < keys; ++j) {
        auto* s = reinterpret_cast<Vector<A>*>(w.scores.row(j));
        for (int c = 0; c < size; ++c) {
            s[c] = fast_exp(scale * (s[c] - most.vectors[c]));  // of a product, rounded by itself, e^x might be above 1
            total.vectors[c] += s[c];
        }
    }
    for (std::int64_t i = 0; i < queries; ++i)
        if (const A factor = shrink[i]; factor != 1)  // of most tiles, when some keys have been seen, it is 1
            for (std::int64_t d = 0; d < D; ++d) w.out.row(i)[d] *= factor;
    w.most = most;
    w.total = total;
}

template <class T>
struct Forward {
    using A = acc_t<T>;
    // Measured on a Zen 4: f32 takes an eighth to a seventh less time, bf16 up to a twentieth more.
    static constexpr std::int64_t height = numbers<T> == 1 ? tall_block : row_block;
    const T *q, *k, *v;
    T* out;
    A* lse;
    std::int64_t H, K, D;

    /// Brings the first `n` keys and values of a sequence and head to the workspace, those that are not there yet.
    void load_keys(std::int64_t first_key, std::int64_t kv, std::int64_t n, Workspace<T>& w) const {
        if (w.first_key != first_key || w.kv != kv) {
            w.first_key = first_key;
            w.kv = kv;
            w.loaded = 0;
        }
        if (w.loaded >= n) return;
        for (; w.loaded < n; w.loaded += key_rows) {
            const std::int64_t from = ((first_key + w.loaded) * K + kv) * D;
            const std::int64_t count = std::min(key_rows, n - w.loaded);
            load_left(w.k, w.loaded, k + from, K * D, count, D);
            load_right(w.v, w.loaded / numbers<T>, v + from, K * D, count, D);
        }
        w.loaded = n / key_rows * key_rows;  // a tile that is not full is loaded again when more of it is seen
    }

    void run(const QueryTile& tile, Workspace<T>& w) const {
        const std::int64_t queries = tile.end - tile.begin;
        const std::int64_t elements = ceil_div(D, numbers<T>);
        const A scale = A{1} / std::sqrt(static_cast<A>(D));
        load_keys(tile.first_key, tile.h / (H / K), tile.keys(), w);
        load_right_transposed(w.q, q + (tile.begin * H + tile.h) * D, H * D, queries, D);
        w.most.fill(-std::numeric_limits<A>::infinity());
        w.total.fill(0);
        w.out.zero(query_rows);
        for (std::int64_t first = 0; first < tile.keys(); first += key_rows) {
            const std::int64_t keys = std::min(key_rows, tile.keys() - first);
            tile_product<false, height>(w.scores, 0, plain(w.k, first), w.q, 0, keys, queries, elements);
            mask_future(w.scores, keys, tile.begin + tile.shift - tile.first_key - first);
            online_softmax(w, keys, queries, D, scale);
            if constexpr (numbers<T> == 2) {
                pair_rows(w.pairs, w.scores, keys, query_rows);
                tile_product<true, height>(w.out, 0, transposed(w.pairs), w.v, first / 2, queries, D,
                                           ceil_div(keys, 2));
            } else {
                tile_product<true, height>(w.out, 0, transposed(w.scores), w.v, first, queries, D, keys);
            }
        }
        for (std::int64_t i = 0; i < queries; ++i) {
            T* y = out + ((tile.begin + i) * H + tile.h) * D;
            const A share = A{1} / w.total[i];
            for (std::int64_t d = 0; d < D; ++d) y[d] = static_cast<T>(w.out.row(i)[d] * share);
            lse[(tile.begin + i) * H + tile.h] = scale * w.most[i] + std::log(w.total[i]);
        }
    }
};

}  // namespace

void attention(const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v,
               const Tensor& cu_queries, const Tensor& cu_keys, std::int64_t head_dim) {
    const std::int64_t H = q.dim(1) / head_dim;
    const std::int64_t K = k.dim(1) / head_dim;
    const std::vector<QueryTile> tiles = query_tiles(cu_queries, cu_keys, H, K);
    std::vector<std::int64_t> costs;
    std::int64_t most_keys = 0;
    for (const QueryTile& tile : tiles) {
        costs.push_back(tile.keys());
        most_keys = std::max(most_keys, tile.keys());
    }
    with_float(q.dtype(), [&]<class T>() {
        const auto workspace_on = [&](Device device) { return Workspace<T>(most_keys, head_dim, device); };
        if (q.device() != Device{}) return take_workspaces(costs, [&] { return workspace_on(q.device()); });
        const Forward<T> forward{q.data<T>(),          k.data<T>(), v.data<T>(), out.data<T>(),
                                 lse.data<acc_t<T>>(), H,           K,           head_dim};
        parallel_for_costs(costs, [&](std::size_t begin, std::size_t end) {
            const AmxRegisters registers;
            Workspace<T> workspace = workspace_on({});
            for (std::size_t item = begin; item < end; ++item) forward.run(tiles[item], workspace);
        });
    });
}

}  // namespace uipe::tensor::cpu
