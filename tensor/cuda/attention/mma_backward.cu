// Level 3, backward: the gradient on tensor cores, with no atomics.
//
// Two kernels, so that each gradient has one owner and one order of sums. dk and dv: a block takes 64 keys of one
// key/value head, a warp 16 of them, and walks the queries that see them, over all query heads of its group. It
// computes scores with keys as rows, so that probabilities and their gradients are in registers what the products
// with dout and q need on the left. dq: a block takes 128 queries of one head, a warp 32, and walks the keys in tiles
// of 32. Both recompute probabilities from lse: seven products instead of the five of one kernel that would have to
// add up dq in memory. Tiles are copied a step ahead into one of two buffers.
// Registers leave room for two blocks on a multiprocessor; shared memory too, except with D > 64 for dq on an
// sm_80 and for both on an sm_89. Measured: not yet.
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
    if (15 > ahead) mask<true>(p, ahead);
    DEV_UNROLL
    for (int n = 0; n < N; ++n) {
        DEV_UNROLL
        for (int i = 0; i < 4; ++i)
            p[0][n][i] = dev::exp2(dev::fma(p[0][n][i], log2_scale, -lse[8 * n + dev::lane() % 4 * 2 + i % 2]));
    }
    std::uint32_t left[1][N / 2][4];
    round_to_operand(left, p);
    multiply_columns<D>(dv, left, dout);
    float ds[1][N][4];
    clear(ds);
    multiply_rows<D>(ds, v, dout);
    DEV_UNROLL
    for (int n = 0; n < N; ++n) {
        DEV_UNROLL
        for (int i = 0; i < 4; ++i)
            ds[0][n][i] = p[0][n][i] * (ds[0][n][i] - delta[8 * n + dev::lane() % 4 * 2 + i % 2]);
    }
    round_to_operand(left, ds);
    multiply_columns<D>(dk, left, q);
}

template <int D>
__global__ void __launch_bounds__(mma_threads, 2) keys_kernel(Backward<bf16> b, const Tile* tiles) {
    constexpr int rows = step_queries<D>;
    DEV_DYNAMIC_SHARED(shared);
    bf16* const keys = reinterpret_cast<bf16*>(shared);
    bf16* const values = keys + tile_size<D>(block_keys);
    bf16* const queries = values + tile_size<D>(block_keys);                            // two buffers of q and dout
    float* const numbers = reinterpret_cast<float*>(queries + 4 * tile_size<D>(rows));  // two of lse and delta

    const Tile tile = tiles[dev::block_x()];
    const Sequence sequence = attend::sequence(b.layout, tile.sequence);
    const int step = b.layout.H * D;
    const int key_step = b.layout.K * D;
    const std::int64_t key_at = (sequence.key + tile.first) * key_step + dev::block_y() * D;
    const int group = b.layout.H / b.layout.K;
    const int end_head = (dev::block_y() + 1) * group;

    const auto copy_step = [&](int buffer, int head, int query) {
        bf16* const q = queries + buffer * tile_size<D>(2 * rows);
        const std::int64_t at = (sequence.query + query) * step + head * D;
        copy_rows<D>(q, rows, b.q + at, step, sequence.queries - query);
        copy_rows<D>(q + tile_size<D>(rows), rows, b.dout + at, step, sequence.queries - query);
        dev::copy_commit();
    };
    // Each thread brings one number of a step: lse in base 2 of a query, or delta of one.
    const auto row_number = [&](int head, int query) {
        const bool is_delta = dev::thread() >= rows;
        query += dev::thread() % rows;
        if (dev::thread() >= 2 * rows || query >= sequence.queries) return is_delta ? 0.0F : infinity;
        const std::int64_t at = (sequence.query + query) * b.layout.H + head;
        return is_delta ? b.delta[at] : b.lse[at] * log2_e;
    };
    const auto put_row_number = [&](int buffer, float x) {
        if (dev::thread() < 2 * rows) numbers[buffer * 2 * rows + dev::thread()] = x;
    };

    const int first_key = tile.first + dev::warp() * 16;
    bf16* const own_keys = keys + tile_size<D>(dev::warp() * 16);
    bf16* const own_values = values + tile_size<D>(dev::warp() * 16);
    float dk[1][D / 8][4];
    float dv[1][D / 8][4];
    clear(dk);
    clear(dv);
    int head = end_head - group;
    int query = tile.first;  // the first that sees a key
    copy_rows<D>(keys, block_keys, b.k + key_at, key_step, sequence.keys - tile.first);
    copy_rows<D>(values, block_keys, b.v + key_at, key_step, sequence.keys - tile.first);
    copy_step(0, head, query);
    put_row_number(0, row_number(head, query));
    for (int buffer = 0; head < end_head; buffer = 1 - buffer) {
        dev::copy_wait<0>();
        dev::sync();
        const bool last = query + rows >= sequence.queries;
        const int next_query = last ? tile.first : query + rows;
        const int next_head = last ? head + 1 : head;
        float next_number = 0.0F;
        if (next_head < end_head) {
            copy_step(1 - buffer, next_head, next_query);
            next_number = row_number(next_head, next_query);
        }
        if (first_key < sequence.keys && first_key < query + rows) {
            const bf16* const q = queries + buffer * tile_size<D>(2 * rows);
            const float* const lse = numbers + buffer * 2 * rows;
            add_queries<D, rows / 8>(dk, dv, own_keys, own_values, q, q + tile_size<D>(rows), lse, lse + rows,
                                     query - first_key, b.layout.scale * log2_e);
        }
        put_row_number(1 - buffer, next_number);
        query = next_query;
        head = next_head;
    }
    const int valid = sequence.keys - first_key;
    if (valid <= 0) return;
    const std::int64_t at = key_at + static_cast<std::int64_t>(dev::warp() * 16) * key_step;
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
    if (step_keys - 1 > ahead) mask<false>(p, ahead);
    float ds[M][N][4];
    clear(ds);
    multiply_rows<D>(ds, dout, v);
    DEV_UNROLL
    for (int m = 0; m < M; ++m) {
        DEV_UNROLL
        for (int n = 0; n < N; ++n) {
            DEV_UNROLL
            for (int i = 0; i < 4; ++i)
                ds[m][n][i] = dev::exp2(dev::fma(p[m][n][i], log2_scale, -rows.lse[m][i / 2])) *
                              (ds[m][n][i] - rows.delta[m][i / 2]);
        }
    }
    std::uint32_t left[M][N / 2][4];
    round_to_operand(left, ds);
    multiply_columns<D>(dq, left, k);
}

template <int D>
__global__ void __launch_bounds__(mma_threads, 2) queries_kernel(Backward<bf16> b, const Tile* tiles) {
    DEV_DYNAMIC_SHARED(shared);
    bf16* const queries = reinterpret_cast<bf16*>(shared);
    bf16* const douts = queries + tile_size<D>(block_queries);
    bf16* const keys = douts + tile_size<D>(block_queries);  // two buffers of k and v

    const Tile tile = tiles[dev::block_x()];
    const Sequence sequence = attend::sequence(b.layout, tile.sequence);
    const int head = dev::block_y();
    const int step = b.layout.H * D;
    const int key_step = b.layout.K * D;
    const std::int64_t query_at = (sequence.query + tile.first) * step + head * D;
    const std::int64_t key_at = sequence.key * key_step + head / (b.layout.H / b.layout.K) * D;
    const int steps = (dev::min_of(sequence.keys, tile.first + block_queries) + step_keys - 1) / step_keys;

    const auto copy_step = [&](int i) {
        bf16* const k = keys + i % 2 * tile_size<D>(2 * step_keys);
        const std::int64_t at = key_at + static_cast<std::int64_t>(i * step_keys) * key_step;
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
    // Found again: the products need the registers that would remember it.
    const Sequence again = attend::sequence(b.layout, tiles[dev::block_x()].sequence);
    const int row = tiles[dev::block_x()].first + dev::warp() * warp_rows;
    if (row >= again.queries) return;
    write_rows<D, M>(b.dq + ((again.query + row) * b.layout.H + dev::block_y()) * D, b.layout.H * D,
                     again.queries - row, dq, b.layout.scale, b.accumulate_q, own_queries);
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
