// Level 2 of attention. To level 1 it adds: keys and values are read once for a tile of queries, by way of shared
// memory, and met once forward, by the online softmax (Dao et al. 2022, algorithms 1 and 4). Arithmetic is f32, in
// registers: a thread owns a few rows by 4 columns of a tile of scores, and its rows by D/8 of what they add up to.
// Backward, one kernel holds tiles of queries and adds up dq, another holds tiles of keys and adds up dk and dv over
// the heads of their group: every sum has one owner and one order.
//
// The same cut in each kernel: a block holds rows (queries, or keys) of one head, and takes 32 columns (keys, or
// queries) after another. A warp owns rows in a block; its lane (r, c) = (lane / 8, lane % 8) has rows r + 4 i and
// columns c + 8 j of the scores, and elements 4 c + 32 j … of D, so that what lanes read together lies in different
// banks. D is padded with zeros to 32, 64 or 128.
// Measured: not yet on a GPU.
#include <limits>
#include <numbers>

#include "tensor/cuda/attention/attention.h"

namespace uipe::tensor::cuda::attend {
namespace {

constexpr int warps = 4;
constexpr int threads = warps * dev::warp_size;
constexpr int columns = 32;
constexpr int weights_pitch = columns + 4;
constexpr float log2_e = std::numbers::log2e_v<float>;
constexpr float infinity = std::numeric_limits<float>::infinity();

/// Sizes for heads of up to P elements.
template <int P>
struct Cut {
    static constexpr int mine = P > 64 ? 2 : 4;  // rows of a thread
    static constexpr int warp_rows = 4 * mine;
    static constexpr int rows = warps * warp_rows;
    static constexpr int pitch = P + 4;
    static constexpr int sums = P / 8;  // elements of each row that a thread adds up
};

template <int P>
using Scores = float[Cut<P>::mine][4];
template <int P>
using Sums = float[Cut<P>::mine][Cut<P>::sums];

__device__ inline int lane_row() { return dev::lane() / 8; }
__device__ inline int lane_column() { return dev::lane() % 8; }
/// The row in the block of the thread's row i.
template <int P>
__device__ inline int row_of(int i) {
    return dev::warp() * Cut<P>::warp_rows + lane_row() + 4 * i;
}
__device__ inline int column_of(int j) { return lane_column() + 8 * j; }

/// to[n,P] = scale from, whose rows are `step` apart; zeros beyond `valid` rows and D elements.
template <int P, int n, class T>
__device__ inline void load_tile(float* to, const T* from, std::int64_t step, int valid, int D, float scale) {
    constexpr int size = dev::Vec<T>::size;
    constexpr int pieces = P / size;
    for (int i = dev::thread(); i < n * pieces; i += threads) {
        const int row = i / pieces;
        const int d = i % pieces * size;
        dev::Vec<T> x{};
        if (row < valid && d < D) x = dev::load(from + row * step + d);
        for (int part = 0; part < size; part += 4) {
            dev::Vec<float> y;
            for (int e = 0; e < 4; ++e) y.at[e] = scale * dev::to_float(x.at[part + e]);
            dev::store(to + row * Cut<P>::pitch + d + part, y);
        }
    }
}

/// s = rows columns^T.
template <int P>
__device__ inline void products(Scores<P>& s, const float* rows, const float* cols, int D) {
    constexpr int mine = Cut<P>::mine;
    for (int i = 0; i < mine; ++i)
        for (int j = 0; j < 4; ++j) s[i][j] = 0.0F;
    for (int d = 0; d < D; d += 4) {
        dev::Vec<float> a[mine];
        dev::Vec<float> b[4];
        for (int i = 0; i < mine; ++i) a[i] = dev::load(rows + row_of<P>(i) * Cut<P>::pitch + d);
        for (int j = 0; j < 4; ++j) b[j] = dev::load(cols + column_of(j) * Cut<P>::pitch + d);
        for (int e = 0; e < 4; ++e)
            for (int i = 0; i < mine; ++i)
                for (int j = 0; j < 4; ++j) s[i][j] = dev::fma(a[i].at[e], b[j].at[e], s[i][j]);
    }
}

/// Lays the warp's scores where add_products of the same warp reads them, after a sync_warp().
template <int P>
__device__ inline void lay(float* weights, const Scores<P>& s) {
    for (int i = 0; i < Cut<P>::mine; ++i)
        for (int j = 0; j < 4; ++j) weights[row_of<P>(i) * weights_pitch + column_of(j)] = s[i][j];
}

/// sums += weights columns.
template <int P>
__device__ inline void add_products(Sums<P>& sums, const float* weights, const float* cols) {
    constexpr int mine = Cut<P>::mine;
    for (int n = 0; n < columns; n += 4) {
        dev::Vec<float> w[mine];
        for (int i = 0; i < mine; ++i) w[i] = dev::load(weights + row_of<P>(i) * weights_pitch + n);
        for (int e = 0; e < 4; ++e)
            for (int j = 0; j < P / 32; ++j) {
                const auto x = dev::load(cols + (n + e) * Cut<P>::pitch + 32 * j + 4 * lane_column());
                for (int i = 0; i < mine; ++i)
                    for (int f = 0; f < 4; ++f) sums[i][4 * j + f] = dev::fma(w[i].at[e], x.at[f], sums[i][4 * j + f]);
            }
    }
}

template <int P>
__device__ inline void clear(Sums<P>& sums) {
    for (int i = 0; i < Cut<P>::mine; ++i)
        for (int d = 0; d < Cut<P>::sums; ++d) sums[i][d] = 0.0F;
}

/// Four elements at once, aligned to their size.
__device__ inline void store_four(float* to, const float (&x)[4]) {
    dev::store(to, dev::Vec<float>{{x[0], x[1], x[2], x[3]}});
}
__device__ inline void store_four(bf16* to, const float (&x)[4]) {
    *reinterpret_cast<std::uint64_t*>(to) = dev::pack(x[0], x[1]) | static_cast<std::uint64_t>(dev::pack(x[2], x[3]))
                                                                        << 32;
}

/// to (+)= factor sums, rows `step` apart, of the first `valid` rows.
template <int P, class T>
__device__ inline void store_rows(T* to, std::int64_t step, const Sums<P>& sums, const float (&factor)[Cut<P>::mine],
                                  int valid, int D, bool accumulate) {
    DEV_UNROLL
    for (int i = 0; i < Cut<P>::mine; ++i) {
        DEV_UNROLL
        for (int j = 0; j < P / 32; ++j) {
            const int d = 32 * j + 4 * lane_column();
            T* at = to + row_of<P>(i) * step + d;
            if (row_of<P>(i) < valid && d < D) {
                float x[4];
                for (int f = 0; f < 4; ++f)
                    x[f] = factor[i] * sums[i][4 * j + f] + (accumulate ? dev::to_float(at[f]) : 0.0F);
                store_four(at, x);
            }
        }
    }
}

/// The sum over the 8 lanes of a row.
__device__ inline float row_sum(float x DEV_AND_HERE) {
    for (int step = 1; step < 8; step *= 2) x += dev::shuffle_xor(x, step DEV_AND_PASS);
    return x;
}
__device__ inline float row_max(float x DEV_AND_HERE) {
    for (int step = 1; step < 8; step *= 2) x = dev::max_of(x, dev::shuffle_xor(x, step DEV_AND_PASS));
    return x;
}

/// The softmax of a tile's rows so far: `most` and `total` of powers of two; total is the thread's own columns'.
template <int P>
struct Softmax {
    float most[Cut<P>::mine];
    float total[Cut<P>::mine];

    __device__ Softmax() {
        for (int i = 0; i < Cut<P>::mine; ++i) {
            most[i] = -infinity;
            total[i] = 0.0F;
        }
    }
    /// Turns scores into their shares of the row's largest, and what was summed under an older one with them.
    __device__ void add(Scores<P>& s, Sums<P>& sums DEV_AND_HERE) {
        for (int i = 0; i < Cut<P>::mine; ++i) {
            float now = most[i];
            for (int j = 0; j < 4; ++j) now = dev::max_of(now, s[i][j]);
            now = row_max(now DEV_AND_PASS);
            const float factor = dev::exp2(most[i] - now);
            most[i] = now;
            total[i] *= factor;
            for (int j = 0; j < 4; ++j) {
                s[i][j] = dev::exp2(s[i][j] - now);
                total[i] += s[i][j];
            }
            for (int d = 0; d < Cut<P>::sums; ++d) sums[i][d] *= factor;
        }
    }
};

/// A block's rows: `valid` of them from row `first` of the sequence, in head `head` of `heads`.
struct Place {
    Sequence s;
    int head, first;
};
__device__ inline Place place(const Layout& l, const Tile* tiles, int heads) {
    const Tile tile = tiles[dev::block_x() / heads];
    return {sequence(l, tile.sequence), dev::block_x() % heads, tile.first};
}

/// The tiles of a block in its shared memory.
template <int P>
struct Shared {
    static constexpr int row_tile = Cut<P>::rows * Cut<P>::pitch;
    static constexpr int column_tile = columns * Cut<P>::pitch;
    static constexpr int weights = Cut<P>::rows * weights_pitch;
};

template <int P, class T>
__global__ void __launch_bounds__(threads) tiled_forward_kernel(Forward<T> f, const Tile* tiles) {
    using C = Cut<P>;
    DEV_DYNAMIC_SHARED(memory);
    float* const q = reinterpret_cast<float*>(memory);
    float* const k = q + Shared<P>::row_tile;
    float* const v = k + Shared<P>::column_tile;
    float* const weights = v + Shared<P>::column_tile;
    const Layout& l = f.layout;
    const Place at = place(l, tiles, l.H);
    const int valid = dev::min_of(C::rows, at.s.queries - at.first);
    const int visible = dev::min_of(at.s.keys, at.s.shift() + at.first + C::rows);
    const std::int64_t query = (at.s.query + at.first) * l.H + at.head;
    const std::int64_t key = at.s.key * l.K + at.head / (l.H / l.K);
    const std::int64_t step = static_cast<std::int64_t>(l.K) * l.D;

    load_tile<P, C::rows>(q, f.q + query * l.D, static_cast<std::int64_t>(l.H) * l.D, valid, l.D, l.scale * log2_e);
    Softmax<P> softmax;
    Sums<P> sums;
    clear<P>(sums);
    for (int first = 0; first < visible; first += columns) {
        dev::sync();  // the tiles before are read
        load_tile<P, columns>(k, f.k + key * l.D + first * step, step, visible - first, l.D, 1.0F);
        load_tile<P, columns>(v, f.v + key * l.D + first * step, step, visible - first, l.D, 1.0F);
        dev::sync();
        Scores<P> s;
        products<P>(s, q, k, l.D);
        if (first + columns - 1 > at.s.shift() + at.first)  // the future; each row sees key 0
            for (int i = 0; i < C::mine; ++i)
                for (int j = 0; j < 4; ++j)
                    if (first + column_of(j) > at.s.shift() + at.first + row_of<P>(i)) s[i][j] = -infinity;
        softmax.add(s, sums);
        lay<P>(weights, s);
        dev::sync_warp();
        add_products<P>(sums, weights, v);
    }

    float share[C::mine];
    for (int i = 0; i < C::mine; ++i) {
        const float total = row_sum(softmax.total[i]);
        share[i] = 1.0F / total;
        if (row_of<P>(i) < valid && lane_column() == 0)
            f.lse[query + static_cast<std::int64_t>(row_of<P>(i)) * l.H] = softmax.most[i] / log2_e + dev::log(total);
    }
    store_rows<P>(f.out + query * l.D, static_cast<std::int64_t>(l.H) * l.D, sums, share, valid, l.D, false);
}

template <int P, class T>
__global__ void __launch_bounds__(threads, 2) tiled_dq_kernel(Backward<T> b, const Tile* tiles) {
    using C = Cut<P>;
    DEV_DYNAMIC_SHARED(memory);
    float* const q = reinterpret_cast<float*>(memory);
    float* const dout = q + Shared<P>::row_tile;
    float* const k = dout + Shared<P>::row_tile;
    float* const v = k + Shared<P>::column_tile;
    float* const weights = v + Shared<P>::column_tile;
    const Layout& l = b.layout;
    const Place at = place(l, tiles, l.H);
    const int valid = dev::min_of(C::rows, at.s.queries - at.first);
    const int visible = dev::min_of(at.s.keys, at.s.shift() + at.first + C::rows);
    const std::int64_t query = (at.s.query + at.first) * l.H + at.head;
    const std::int64_t query_step = static_cast<std::int64_t>(l.H) * l.D;
    const std::int64_t key = at.s.key * l.K + at.head / (l.H / l.K);
    const std::int64_t key_step = static_cast<std::int64_t>(l.K) * l.D;

    load_tile<P, C::rows>(q, b.q + query * l.D, query_step, valid, l.D, l.scale * log2_e);
    load_tile<P, C::rows>(dout, b.dout + query * l.D, query_step, valid, l.D, 1.0F);
    float lse[C::mine];
    float delta[C::mine];
    for (int i = 0; i < C::mine; ++i) {
        const bool here = row_of<P>(i) < valid;
        const std::int64_t row = query + static_cast<std::int64_t>(row_of<P>(i)) * l.H;
        lse[i] = here ? log2_e * b.lse[row] : 0.0F;
        delta[i] = here ? b.delta[row] : 0.0F;
    }
    Sums<P> sums;
    clear<P>(sums);
    for (int first = 0; first < visible; first += columns) {
        dev::sync();
        load_tile<P, columns>(k, b.k + key * l.D + first * key_step, key_step, visible - first, l.D, 1.0F);
        load_tile<P, columns>(v, b.v + key * l.D + first * key_step, key_step, visible - first, l.D, 1.0F);
        dev::sync();
        Scores<P> s;
        Scores<P> dp;
        products<P>(s, q, k, l.D);
        products<P>(dp, dout, v, l.D);
        for (int i = 0; i < C::mine; ++i)
            for (int j = 0; j < 4; ++j) {
                const bool seen = first + column_of(j) <= at.s.shift() + at.first + row_of<P>(i);
                s[i][j] = seen ? dev::exp2(s[i][j] - lse[i]) * (dp[i][j] - delta[i]) : 0.0F;
            }
        lay<P>(weights, s);
        dev::sync_warp();
        add_products<P>(sums, weights, k);
    }
    float scale[C::mine];
    for (float& x : scale) x = l.scale;
    store_rows<P>(b.dq + query * l.D, query_step, sums, scale, valid, l.D, b.accumulate_q);
}

template <int P, class T>
__global__ void __launch_bounds__(threads, 2) tiled_dkdv_kernel(Backward<T> b, const Tile* tiles) {
    using C = Cut<P>;
    DEV_DYNAMIC_SHARED(memory);
    float* const k = reinterpret_cast<float*>(memory);
    float* const v = k + Shared<P>::row_tile;
    float* const q = v + Shared<P>::row_tile;
    float* const dout = q + Shared<P>::column_tile;
    float* const weights_k = dout + Shared<P>::column_tile;
    float* const weights_v = weights_k + Shared<P>::weights;
    const Layout& l = b.layout;
    const Place at = place(l, tiles, l.K);
    const int valid = dev::min_of(C::rows, at.s.keys - at.first);
    const std::int64_t key = (at.s.key + at.first) * l.K + at.head;
    const std::int64_t key_step = static_cast<std::int64_t>(l.K) * l.D;
    const std::int64_t query_step = static_cast<std::int64_t>(l.H) * l.D;

    load_tile<P, C::rows>(k, b.k + key * l.D, key_step, valid, l.D, l.scale * log2_e);
    load_tile<P, C::rows>(v, b.v + key * l.D, key_step, valid, l.D, 1.0F);
    Sums<P> dk;
    Sums<P> dv;
    clear<P>(dk);
    clear<P>(dv);
    for (int h = at.head * (l.H / l.K); h < (at.head + 1) * (l.H / l.K); ++h)
        for (int first = dev::max_of(0, at.first - at.s.shift()); first < at.s.queries; first += columns) {
            const int left = at.s.queries - first;
            const std::int64_t query = (at.s.query + first) * l.H + h;
            dev::sync();
            load_tile<P, columns>(q, b.q + query * l.D, query_step, left, l.D, 1.0F);
            load_tile<P, columns>(dout, b.dout + query * l.D, query_step, left, l.D, 1.0F);
            dev::sync();
            Scores<P> s;
            Scores<P> dp;
            products<P>(s, k, q, l.D);
            products<P>(dp, v, dout, l.D);
            for (int j = 0; j < 4; ++j) {
                const std::int64_t row = query + static_cast<std::int64_t>(column_of(j)) * l.H;
                const bool here = column_of(j) < left;
                const float lse = here ? log2_e * b.lse[row] : 0.0F;
                const float delta = here ? b.delta[row] : 0.0F;
                for (int i = 0; i < C::mine; ++i) {
                    const bool seen = here && at.first + row_of<P>(i) <= at.s.shift() + first + column_of(j);
                    s[i][j] = seen ? dev::exp2(s[i][j] - lse) : 0.0F;
                    dp[i][j] = s[i][j] * (dp[i][j] - delta);
                }
            }
            lay<P>(weights_v, s);
            lay<P>(weights_k, dp);
            dev::sync_warp();
            add_products<P>(dv, weights_v, dout);
            add_products<P>(dk, weights_k, q);
        }
    float scale[C::mine];
    for (float& x : scale) x = l.scale;
    store_rows<P>(b.dk + key * l.D, key_step, dk, scale, valid, l.D, b.accumulate_k);
    for (float& x : scale) x = 1.0F;
    store_rows<P>(b.dv + key * l.D, key_step, dv, scale, valid, l.D, b.accumulate_v);
}

/// Calls body.operator()<P>() with D padded.
template <class Body>
void with_padded(int D, const Body& body) {
    if (D <= 32) return body.template operator()<32>();
    if (D <= 64) return body.template operator()<64>();
    body.template operator()<128>();
}

Launch over(const Tiles& tiles, int heads, int floats) {
    return {
        .grid = {tiles.count * heads}, .threads = threads, .shared = static_cast<std::size_t>(floats) * sizeof(float)};
}

}  // namespace

template <class T>
void tiled_forward(const Forward<T>& f, const Batch& batch) {
    with_padded(f.layout.D, [&]<int P>() {
        using S = Shared<P>;
        const Tiles tiles = query_tiles(batch, Cut<P>::rows);
        launch(tiled_forward_kernel<P, T>, over(tiles, f.layout.H, S::row_tile + 2 * S::column_tile + S::weights), f,
               tiles.at);
    });
}

template <class T>
void tiled_backward(const Backward<T>& b, const Batch& batch) {
    with_padded(b.layout.D, [&]<int P>() {
        using S = Shared<P>;
        const int tiles_floats = 2 * S::row_tile + 2 * S::column_tile;
        const Tiles queries = query_tiles(batch, Cut<P>::rows);
        launch(tiled_dq_kernel<P, T>, over(queries, b.layout.H, tiles_floats + S::weights), b, queries.at);
        const Tiles keys = key_tiles(batch, Cut<P>::rows);
        launch(tiled_dkdv_kernel<P, T>, over(keys, b.layout.K, tiles_floats + 2 * S::weights), b, keys.at);
    });
}

template void tiled_forward(const Forward<float>&, const Batch&);
template void tiled_forward(const Forward<bf16>&, const Batch&);
template void tiled_backward(const Backward<float>&, const Batch&);
template void tiled_backward(const Backward<bf16>&, const Batch&);

}  // namespace uipe::tensor::cuda::attend
