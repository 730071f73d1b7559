// Level 3, backward: the gradient on tensor cores, with no atomics.
//
// Two kernels, so that each gradient has one owner and one order of sums. dk and dv: a block takes 64 keys of one
// key/value head, a warp 16 of them, and walks the queries that see them, over all query heads of its group. It
// computes scores with keys as rows, so that probabilities and their gradients are in registers what the products
// with dout and q need on the left. dq: a block takes 128 queries of one head, a warp 32, and walks the keys in tiles
// of 32. Both recompute probabilities from lse: seven products instead of the five of one kernel that would have to
// add up dq in memory. Tiles are copied a step ahead into one of two buffers.
#include "tensor/cuda/attention/mma.h"

namespace uipe::tensor::cuda::attend {
namespace {

// Queries past the end of a sequence have lse = infinity: probability 0, and rows of zeros else.

// --- dk and dv -----------------------------------------------------------------------------------------------------

constexpr int block_keys = 16 * mma_warps;
/// Queries a step: fewer where the sums of dk and dv take most of the registers.
template <int D>
constexpr int step_queries = D <= 64 ? 64 : 32;
template <int D>
constexpr std::size_t keys_shared_bytes = sizeof(bf16) *
                                              (2 * tile_size<D>(block_keys) + 4 * tile_size<D>(step_queries<D>)) +
                                          sizeof(float) * 4 * step_queries<D>;

/// One step: p = exp(k q^T - lse), dv += p dout, ds = p (v dout^T - delta), dk += ds q. Key `row` sees query `column`
/// if row <= column + ahead. `lse` (in base 2) and `delta`: of the queries.
template <int D, int N>
__device__ inline void add_queries(float (&dk)[1][D / 8][4], float (&dv)[1][D / 8][4], const bf16* k, const bf16* v,
                                   const bf16* q, const bf16* dout, const float* lse, const float* delta, int ahead,
                                   float log2_scale) {
    float p[1][N][4];
    clear(p);
    multiply_rows<D>(p, k, q);
    const bool all = 15 <= ahead;
    for_each(p, [&](float& x, int row, int column) {
        x = all || row <= column + ahead ? dev::exp2(dev::fma(x, log2_scale, -lse[column])) : 0.0F;
    });
    std::uint32_t left[1][N / 2][4];
    round_to_operand(left, p);
    multiply_columns<D>(dv, left, dout);
    float ds[1][N][4];
    clear(ds);
    multiply_rows<D>(ds, v, dout);
    DEV_UNROLL
    for (int n = 0; n < N; ++n) DEV_UNROLL
    for (int i = 0; i < 4; ++i) ds[0][n][i] = p[0][n][i] * (ds[0][n][i] - delta[8 * n + dev::lane() % 4 * 2 + i % 2]);
    round_to_operand(left, ds);
    multiply_columns<D>(dk, left, q);
}

template <int D>
__global__ void __launch_bounds__(mma_threads) keys_kernel(Backward<bf16> b, const Tile* tiles) {
    constexpr int rows = step_queries<D>;
    DEV_DYNAMIC_SHARED(shared);
    bf16* const keys = reinterpret_cast<bf16*>(shared);
    bf16* const values = keys + tile_size<D>(block_keys);
    bf16* const queries = values + tile_size<D>(block_keys);                        // two buffers of q and dout
    float* const lse = reinterpret_cast<float*>(queries + 4 * tile_size<D>(rows));  // two of lse and delta

    const Tile tile = tiles[dev::block_x()];
    const Sequence sequence = attend::sequence(b.layout, tile.sequence);
    const int group = b.layout.H / b.layout.K;
    const std::int64_t step = static_cast<std::int64_t>(b.layout.H) * D;
    const std::int64_t key_step = static_cast<std::int64_t>(b.layout.K) * D;
    const std::int64_t key_at = (sequence.key + tile.first) * key_step + dev::block_y() * D;
    const int query_tiles = (sequence.queries - tile.first + rows - 1) / rows;  // those that see a key, for each head
    const int steps = group * query_tiles;

    const auto head_of = [&](int i) { return dev::block_y() * group + i / query_tiles; };
    const auto query_of = [&](int i) { return tile.first + i % query_tiles * rows; };
    const auto copy_step = [&](int i) {
        bf16* const q = queries + i % 2 * tile_size<D>(2 * rows);
        const std::int64_t at = (sequence.query + query_of(i)) * step + head_of(i) * D;
        copy_rows<D>(q, rows, b.q + at, step, sequence.queries - query_of(i));
        copy_rows<D>(q + tile_size<D>(rows), rows, b.dout + at, step, sequence.queries - query_of(i));
        dev::copy_commit();
    };
    // Each thread brings one number of a step: lse in base 2 of a query, or delta of one.
    const auto row_number = [&](int i) {
        const bool is_delta = dev::thread() >= rows;
        const int query = query_of(i) + dev::thread() % rows;
        if (dev::thread() >= 2 * rows || query >= sequence.queries) return is_delta ? 0.0F : infinity;
        const std::int64_t at = (sequence.query + query) * b.layout.H + head_of(i);
        return is_delta ? b.delta[at] : b.lse[at] * log2_e;
    };
    const auto put_row_number = [&](int i, float x) {
        if (dev::thread() < 2 * rows) lse[i % 2 * 2 * rows + dev::thread()] = x;
    };

    const int first_key = tile.first + dev::warp() * 16;
    bf16* const own_keys = keys + tile_size<D>(dev::warp() * 16);
    bf16* const own_values = values + tile_size<D>(dev::warp() * 16);
    float dk[1][D / 8][4];
    float dv[1][D / 8][4];
    clear(dk);
    clear(dv);
    copy_rows<D>(keys, block_keys, b.k + key_at, key_step, sequence.keys - tile.first);
    copy_rows<D>(values, block_keys, b.v + key_at, key_step, sequence.keys - tile.first);
    copy_step(0);
    put_row_number(0, row_number(0));
    for (int i = 0; i < steps; ++i) {
        dev::copy_wait<0>();
        dev::sync();
        const bool more = i + 1 < steps;
        if (more) copy_step(i + 1);
        const float next = more ? row_number(i + 1) : 0.0F;
        const int first_query = query_of(i);
        if (first_key < sequence.keys && first_key < first_query + rows) {
            const bf16* const q = queries + i % 2 * tile_size<D>(2 * rows);
            const float* const numbers = lse + i % 2 * 2 * rows;
            add_queries<D, rows / 8>(dk, dv, own_keys, own_values, q, q + tile_size<D>(rows), numbers, numbers + rows,
                                     first_query - first_key, b.layout.scale * log2_e);
        }
        if (more) put_row_number(i + 1, next);
    }
    const int valid = sequence.keys - first_key;
    if (valid <= 0) return;
    const std::int64_t at = key_at + dev::warp() * 16 * key_step;
    write_rows<D, 1>(b.dk + at, key_step, valid, dk, b.layout.scale, b.accumulate_k, own_keys);
    write_rows<D, 1>(b.dv + at, key_step, valid, dv, 1.0F, b.accumulate_v, own_values);
}

// --- dq ------------------------------------------------------------------------------------------------------------

constexpr int M = 2;  // times 16 rows of queries a warp
constexpr int warp_rows = 16 * M;
constexpr int block_queries = warp_rows * mma_warps;
constexpr int step_keys = 32;
template <int D>
constexpr std::size_t queries_shared_bytes = sizeof(bf16) *
                                             (2 * tile_size<D>(block_queries) + 4 * tile_size<D>(step_keys));

/// lse in base 2 and delta of a lane's rows.
struct RowNumbers {
    float lse[M][2], delta[M][2];
};

/// One step: p = exp(q k^T - lse), ds = p (dout v^T - delta), dq += ds k. Query `row` sees key `column` if
/// column <= row + ahead.
template <int D>
__device__ inline void add_keys(float (&dq)[M][D / 8][4], const bf16* q, const bf16* dout, const bf16* k, const bf16* v,
                                const RowNumbers& rows, int ahead, float log2_scale) {
    constexpr int N = step_keys / 8;
    float p[M][N][4];
    clear(p);
    multiply_rows<D>(p, q, k);
    if (step_keys - 1 > ahead)
        for_each(p, [&](float& x, int row, int column) {
            if (column > row + ahead) x = -infinity;
        });
    float ds[M][N][4];
    clear(ds);
    multiply_rows<D>(ds, dout, v);
    DEV_UNROLL
    for (int m = 0; m < M; ++m) DEV_UNROLL
    for (int n = 0; n < N; ++n) DEV_UNROLL
    for (int i = 0; i < 4; ++i)
        ds[m][n][i] =
            dev::exp2(dev::fma(p[m][n][i], log2_scale, -rows.lse[m][i / 2])) * (ds[m][n][i] - rows.delta[m][i / 2]);
    std::uint32_t left[M][N / 2][4];
    round_to_operand(left, ds);
    multiply_columns<D>(dq, left, k);
}

template <int D>
__global__ void __launch_bounds__(mma_threads) queries_kernel(Backward<bf16> b, const Tile* tiles) {
    DEV_DYNAMIC_SHARED(shared);
    bf16* const queries = reinterpret_cast<bf16*>(shared);
    bf16* const douts = queries + tile_size<D>(block_queries);
    bf16* const keys = douts + tile_size<D>(block_queries);  // two buffers of k and v

    const Tile tile = tiles[dev::block_x()];
    const Sequence sequence = attend::sequence(b.layout, tile.sequence);
    const int head = dev::block_y();
    const std::int64_t step = static_cast<std::int64_t>(b.layout.H) * D;
    const std::int64_t key_step = static_cast<std::int64_t>(b.layout.K) * D;
    const std::int64_t query_at = (sequence.query + tile.first) * step + head * D;
    const std::int64_t key_at = sequence.key * key_step + head / (b.layout.H / b.layout.K) * D;
    const int steps = (dev::min_of(sequence.keys, tile.first + block_queries) + step_keys - 1) / step_keys;

    const auto copy_step = [&](int i) {
        bf16* const k = keys + i % 2 * tile_size<D>(2 * step_keys);
        const std::int64_t at = key_at + i * step_keys * key_step;
        copy_rows<D>(k, step_keys, b.k + at, key_step, sequence.keys - i * step_keys);
        copy_rows<D>(k + tile_size<D>(step_keys), step_keys, b.v + at, key_step, sequence.keys - i * step_keys);
        dev::copy_commit();
    };

    const int first_row = tile.first + dev::warp() * warp_rows;
    bf16* const own_queries = queries + tile_size<D>(dev::warp() * warp_rows);
    bf16* const own_douts = douts + tile_size<D>(dev::warp() * warp_rows);
    copy_rows<D>(queries, block_queries, b.q + query_at, step, sequence.queries - tile.first);
    copy_rows<D>(douts, block_queries, b.dout + query_at, step, sequence.queries - tile.first);
    copy_step(0);
    RowNumbers rows;
    for (int m = 0; m < M; ++m)
        for (int half = 0; half < 2; ++half) {
            const int row = first_row + 16 * m + 8 * half + dev::lane() / 4;
            const std::int64_t at = (sequence.query + row) * b.layout.H + head;
            rows.lse[m][half] = row < sequence.queries ? b.lse[at] * log2_e : infinity;
            rows.delta[m][half] = row < sequence.queries ? b.delta[at] : 0.0F;
        }
    float dq[M][D / 8][4];
    clear(dq);
    for (int i = 0; i < steps; ++i) {
        dev::copy_wait<0>();
        dev::sync();
        if (i + 1 < steps) copy_step(i + 1);
        const int first_key = i * step_keys;
        if (first_row >= sequence.queries || first_key >= first_row + warp_rows) continue;
        const bf16* const k = keys + i % 2 * tile_size<D>(2 * step_keys);
        add_keys<D>(dq, own_queries, own_douts, k, k + tile_size<D>(step_keys), rows, first_row - first_key,
                    b.layout.scale * log2_e);
    }
    const int valid = sequence.queries - first_row;
    if (valid <= 0) return;
    write_rows<D, M>(b.dq + (sequence.query + first_row) * step + head * D, step, valid, dq, b.layout.scale,
                     b.accumulate_q, own_queries);
}

}  // namespace

void mma_backward(const Backward<bf16>& b, const Batch& batch) {
    const Tiles by_keys = key_tiles(batch, block_keys);
    const Tiles by_queries = query_tiles(batch, block_queries);
    with_head_size(b.layout.D, [&]<int D>() {
        launch(keys_kernel<D>,
               {.grid = {by_keys.count, b.layout.K}, .threads = mma_threads, .shared = keys_shared_bytes<D>}, b,
               by_keys.at);
        launch(queries_kernel<D>,
               {.grid = {by_queries.count, b.layout.H}, .threads = mma_threads, .shared = queries_shared_bytes<D>}, b,
               by_queries.at);
    });
}

}  // namespace uipe::tensor::cuda::attend
