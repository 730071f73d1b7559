// Level 4, backward, for sm_90: the two kernels of level 3, with the means of level 4's forward pass.
//
// Each gradient has one owner and one order of sums, so nothing is added up in memory. dk and dv: a block takes 128
// keys of one key/value head and walks the queries that see them, 64 at a time, over all query heads of its group;
// scores have keys as rows, so that probabilities and their gradients are, in registers, the left operands of the
// products with dout and q. dq: a block takes 128 queries of one head and walks the keys, 64 at a time. Both recompute
// probabilities from lse. Nothing that a thread computes goes to shared memory, where products would have to wait for
// it.
//
// sm_90a: 168 registers at the start, 24 for the producer and 240 for the others after setmaxnreg, none spilled;
// 66 KiB of shared memory with D = 64, 130 KiB with D = 128; one block on a multiprocessor. Measured: not yet.
#include "tensor/cuda/attention/wgmma.h"

namespace uipe::tensor::cuda::attend {
namespace {

constexpr int step_rows = 64;  // queries for dk and dv, keys for dq
constexpr int N = step_rows / 8;
constexpr int buffers = 2;

/// What both kernels have in shared memory: the block's own two tiles, and pairs of tiles that pass by; for dk and dv
/// with the numbers of their rows, lse in base 2 and delta.
template <int D>
struct Shared {
    bf16* own;
    bf16* steps;
    float* numbers;
    Ring<buffers> ring;
    dev::Barrier* own_full;

    static constexpr int own_size = box_size<D>(block_rows);
    static constexpr int step_size = box_size<D>(step_rows);
    static constexpr std::size_t bytes = sizeof(bf16) * (2 * own_size + 2 * buffers * step_size) +
                                         sizeof(float) * 2 * buffers * step_rows +
                                         sizeof(dev::Barrier) * (2 * buffers + 1);

    __device__ explicit Shared(std::byte* begin)
        : own(reinterpret_cast<bf16*>(begin)),
          steps(own + 2 * own_size),
          numbers(reinterpret_cast<float*>(steps + 2 * buffers * step_size)),
          ring{reinterpret_cast<dev::Barrier*>(numbers + 2 * buffers * step_rows)},
          own_full(ring.barriers + 2 * buffers) {}

    __device__ bf16* step(int i) const { return steps + Ring<buffers>::buffer(i) * 2 * step_size; }
    __device__ float* numbers_of(int i) const { return numbers + Ring<buffers>::buffer(i) * 2 * step_rows; }

    /// By thread 0, then a sync().
    __device__ void init(int fillers) const {
        ring.init(fillers);
        dev::barrier_init(own_full, 1);
        dev::barriers_ready();
    }
    /// Starts to copy the block's own tiles.
    __device__ void copy_own(const dev::TensorMap& first, const dev::TensorMap& second, int head, std::int64_t row,
                             int valid) const {
        dev::barrier_arrive_expect(own_full, 2 * 2 * own_size);
        copy_tile<D>(own, block_rows, first, own_full, head, row, valid);
        copy_tile<D>(own + own_size, block_rows, second, own_full, head, row, valid);
    }
    /// Starts to copy a pair of tiles.
    __device__ void copy_step(int i, const dev::TensorMap& first, const dev::TensorMap& second, int head,
                              std::int64_t row, int valid) const {
        dev::barrier_arrive_expect(ring.full(i), 2 * 2 * step_size);
        copy_tile<D>(step(i), step_rows, first, ring.full(i), head, row, valid);
        copy_tile<D>(step(i) + step_size, step_rows, second, ring.full(i), head, row, valid);
    }
};

static_assert(Shared<64>::bytes < 66 * 1024 && Shared<128>::bytes < 130 * 1024);

// --- dk and dv -----------------------------------------------------------------------------------------------------

/// The steps of a block: queries from the block's first key on, of each head of the group.
struct QuerySteps {
    int first_head, heads, steps_a_head;
    __device__ QuerySteps(const Layout& l, const Sequence& sequence, int first)
        : first_head(dev::block_y() * (l.H / l.K)),
          heads(l.H / l.K),
          steps_a_head((sequence.queries - first + step_rows - 1) / step_rows) {}
    __device__ int count() const { return heads * steps_a_head; }
    __device__ int head(int i) const { return first_head + i / steps_a_head; }
    __device__ int query(int i, int first) const { return first + i % steps_a_head * step_rows; }
};

/// A warp's: a lane brings numbers of two queries, the first lane also starts the copies.
template <int D>
__device__ inline void produce_queries(const Shared<D>& shared, const dev::TensorMap& q, const dev::TensorMap& dout,
                                       const dev::TensorMap& k, const dev::TensorMap& v, const Backward<bf16>& b,
                                       const Tile& tile) {
    const Sequence sequence = attend::sequence(b.layout, tile.sequence);
    const QuerySteps steps(b.layout, sequence, tile.first);
    if (dev::lane() == 0) shared.copy_own(k, v, dev::block_y(), sequence.key + tile.first, sequence.keys - tile.first);
    for (int i = 0; i < steps.count(); ++i) {
        const int query = steps.query(i, tile.first);
        shared.ring.wait_free(i);
        float* const numbers = shared.numbers_of(i);
        for (int row = dev::lane(); row < step_rows; row += dev::warp_size) {
            // Queries past the end have lse = infinity: probability 0, and rows of zeros else.
            const bool valid = query + row < sequence.queries;
            const std::int64_t at = (sequence.query + query + row) * b.layout.H + steps.head(i);
            numbers[row] = valid ? b.lse[at] * log2_e : infinity;
            numbers[step_rows + row] = valid ? b.delta[at] : 0.0F;
        }
        if (dev::lane() == 0)
            shared.copy_step(i, q, dout, steps.head(i), sequence.query + query, sequence.queries - query);
        else
            dev::barrier_arrive(shared.ring.full(i));
    }
}

/// One step: p = exp(k q^T - lse), dv += p dout, ds = p (v dout^T - delta), dk += ds q. Key `row` of the warp sees
/// query `column` if row <= column + ahead.
template <int D>
__device__ inline void add_queries(float (&dk)[1][D / 8][4], float (&dv)[1][D / 8][4], const Shared<D>& shared, int i,
                                   int ahead, float log2_scale) {
    const int first = (dev::warpgroup() - 1) * group_rows;
    const bf16* const q = shared.step(i);
    const bf16* const dout = q + Shared<D>::step_size;
    const float* const lse = shared.numbers_of(i);
    const float* const delta = lse + step_rows;
    const int column = dev::lane() % 4 * 2;  // of the lane's first score
    float p[1][N][4];
    float ds[1][N][4];
    dev::products_begin(p[0]);
    group_rows_product<D, block_rows>(p, shared.own, first, q);
    dev::products_commit();
    dev::products_begin(ds[0]);
    group_rows_product<D, block_rows>(ds, shared.own + Shared<D>::own_size, first, dout);
    dev::products_commit();
    dev::products_wait<1>(p[0]);
    if (15 > ahead) mask<true>(p, ahead);
    DEV_UNROLL
    for (int n = 0; n < N; ++n) {
        DEV_UNROLL
        for (int e = 0; e < 4; ++e)
            p[0][n][e] = dev::exp2(dev::fma(p[0][n][e], log2_scale, -lse[8 * n + column + e % 2]));
    }
    std::uint32_t left[1][N / 2][4];
    round_to_operand(left, p);
    dev::products_begin(dv[0], left[0]);
    group_columns_product<D>(dv, left, dout);
    dev::products_commit();
    dev::products_wait<1>(ds[0]);
    DEV_UNROLL
    for (int n = 0; n < N; ++n) {
        DEV_UNROLL
        for (int e = 0; e < 4; ++e) ds[0][n][e] = p[0][n][e] * (ds[0][n][e] - delta[8 * n + column + e % 2]);
    }
    std::uint32_t left_ds[1][N / 2][4];
    round_to_operand(left_ds, ds);
    dev::products_begin(dk[0], left_ds[0]);
    group_columns_product<D>(dk, left_ds, q);
    dev::products_commit();
    dev::products_wait<0>(dk[0], dv[0]);
}

template <int D>
__device__ inline void consume_queries(const Shared<D>& shared, const Backward<bf16>& b, const Tile& tile) {
    const Sequence sequence = attend::sequence(b.layout, tile.sequence);
    const QuerySteps steps(b.layout, sequence, tile.first);
    const int first_key = tile.first + (dev::warpgroup() - 1) * group_rows;
    const int warp_key = first_key + dev::warp_of_group() * 16;
    float dk[1][D / 8][4];
    float dv[1][D / 8][4];
    clear(dk);
    clear(dv);
    dev::barrier_wait(shared.own_full, 0);
    const int count = steps.count();
    for (int i = 0; i < count; ++i) {
        const int query = steps.query(i, tile.first);
        shared.ring.wait_full(i);
        if (first_key < sequence.keys && first_key < query + step_rows)
            add_queries<D>(dk, dv, shared, i, query - warp_key, b.layout.scale * log2_e);
        shared.ring.let_go(i);
    }
    dev::sync_some(dev::warpgroup(), dev::warpgroup_size);  // all have read the keys, where results pass
    const int valid = sequence.keys - warp_key;
    if (valid <= 0) return;
    const std::int64_t at = ((sequence.key + warp_key) * b.layout.K + dev::block_y()) * D;
    bf16* const stage = staging<D>(shared.own);
    write_rows<D, 1>(b.dk + at, b.layout.K * D, valid, dk, b.layout.scale, b.accumulate_k, stage);
    write_rows<D, 1>(b.dv + at, b.layout.K * D, valid, dv, 1.0F, b.accumulate_v, stage);
}

template <int D>
__global__ void __launch_bounds__(wgmma_threads, 1)
    keys_kernel(const DEV_GRID_CONSTANT dev::TensorMap q, const DEV_GRID_CONSTANT dev::TensorMap dout,
                const DEV_GRID_CONSTANT dev::TensorMap k, const DEV_GRID_CONSTANT dev::TensorMap v, Backward<bf16> b,
                const Tile* tiles) {
    if constexpr (dev::hopper) {
        DEV_DYNAMIC_SHARED_1024(begin);
        const Shared<D> shared(begin);
        if (dev::thread() == 0) shared.init(dev::warp_size);
        dev::sync();
        if (dev::warpgroup() == 0) {
            dev::fewer_registers<producer_registers>();
            if (dev::warp() == 0) produce_queries<D>(shared, q, dout, k, v, b, tiles[dev::block_x()]);
        } else {
            dev::more_registers<consumer_registers>();
            consume_queries<D>(shared, b, tiles[dev::block_x()]);
        }
    }
}

// --- dq ------------------------------------------------------------------------------------------------------------

/// Keys that a row of the block sees, in steps.
__device__ inline int key_steps(const Sequence& sequence, int first) {
    return (dev::min_of(sequence.keys, first + block_rows) + step_rows - 1) / step_rows;
}

template <int D>
__device__ inline void produce_keys(const Shared<D>& shared, const dev::TensorMap& q, const dev::TensorMap& dout,
                                    const dev::TensorMap& k, const dev::TensorMap& v, const Layout& layout,
                                    const Tile& tile) {
    const Sequence sequence = attend::sequence(layout, tile.sequence);
    const int head = dev::block_y();
    shared.copy_own(q, dout, head, sequence.query + tile.first, sequence.queries - tile.first);
    const int steps = key_steps(sequence, tile.first);
    for (int i = 0; i < steps; ++i) {
        shared.ring.wait_free(i);
        shared.copy_step(i, k, v, head / (layout.H / layout.K), sequence.key + i * step_rows,
                         sequence.keys - i * step_rows);
    }
}

/// One step: p = exp(q k^T - lse), ds = p (dout v^T - delta), dq += ds k. Query `row` of the warp sees key `column` if
/// column <= row + ahead. lse (in base 2) and delta: of the lane's two rows.
template <int D>
__device__ inline void add_keys(float (&dq)[1][D / 8][4], const Shared<D>& shared, int i, const float (&lse)[2],
                                const float (&delta)[2], int ahead, float log2_scale) {
    const int first = (dev::warpgroup() - 1) * group_rows;
    const bf16* const k = shared.step(i);
    float p[1][N][4];
    float ds[1][N][4];
    dev::products_begin(p[0]);
    group_rows_product<D, block_rows>(p, shared.own, first, k);
    dev::products_commit();
    dev::products_begin(ds[0]);
    group_rows_product<D, block_rows>(ds, shared.own + Shared<D>::own_size, first, k + Shared<D>::step_size);
    dev::products_commit();
    dev::products_wait<1>(p[0]);
    if (step_rows - 1 > ahead) mask<false>(p, ahead);
    DEV_UNROLL
    for (int n = 0; n < N; ++n) {
        DEV_UNROLL
        for (int e = 0; e < 4; ++e) p[0][n][e] = dev::exp2(dev::fma(p[0][n][e], log2_scale, -lse[e / 2]));
    }
    dev::products_wait<0>(ds[0]);
    DEV_UNROLL
    for (int n = 0; n < N; ++n) {
        DEV_UNROLL
        for (int e = 0; e < 4; ++e) ds[0][n][e] = p[0][n][e] * (ds[0][n][e] - delta[e / 2]);
    }
    std::uint32_t left[1][N / 2][4];
    round_to_operand(left, ds);
    dev::products_begin(dq[0], left[0]);
    group_columns_product<D>(dq, left, k);
    dev::products_commit();
    dev::products_wait<0>(dq[0]);
}

template <int D>
__device__ inline void consume_keys(const Shared<D>& shared, const Backward<bf16>& b, const Tile& tile) {
    const Sequence sequence = attend::sequence(b.layout, tile.sequence);
    const int first_row = tile.first + (dev::warpgroup() - 1) * group_rows;
    const int warp_row = first_row + dev::warp_of_group() * 16;
    float lse[2];
    float delta[2];
    for (int half = 0; half < 2; ++half) {
        const int row = warp_row + 8 * half + dev::lane() / 4;
        const std::int64_t at = (sequence.query + row) * b.layout.H + dev::block_y();
        lse[half] = row < sequence.queries ? b.lse[at] * log2_e : infinity;
        delta[half] = row < sequence.queries ? b.delta[at] : 0.0F;
    }
    float dq[1][D / 8][4];
    clear(dq);
    dev::barrier_wait(shared.own_full, 0);
    const int steps = key_steps(sequence, tile.first);
    for (int i = 0; i < steps; ++i) {
        const int key = i * step_rows;
        shared.ring.wait_full(i);
        if (first_row < sequence.queries && key < first_row + group_rows)
            add_keys<D>(dq, shared, i, lse, delta, warp_row - key, b.layout.scale * log2_e);
        shared.ring.let_go(i);
    }
    dev::sync_some(dev::warpgroup(), dev::warpgroup_size);  // all have read the queries, where results pass
    const int valid = sequence.queries - warp_row;
    if (valid <= 0) return;
    write_rows<D, 1>(b.dq + ((sequence.query + warp_row) * b.layout.H + dev::block_y()) * D, b.layout.H * D, valid, dq,
                     b.layout.scale, b.accumulate_q, staging<D>(shared.own));
}

template <int D>
__global__ void __launch_bounds__(wgmma_threads, 1)
    queries_kernel(const DEV_GRID_CONSTANT dev::TensorMap q, const DEV_GRID_CONSTANT dev::TensorMap dout,
                   const DEV_GRID_CONSTANT dev::TensorMap k, const DEV_GRID_CONSTANT dev::TensorMap v, Backward<bf16> b,
                   const Tile* tiles) {
    if constexpr (dev::hopper) {
        DEV_DYNAMIC_SHARED_1024(begin);
        const Shared<D> shared(begin);
        if (dev::thread() == 0) shared.init(1);
        dev::sync();
        if (dev::warpgroup() == 0) {
            dev::fewer_registers<producer_registers>();
            if (dev::thread() == 0) produce_keys<D>(shared, q, dout, k, v, b.layout, tiles[dev::block_x()]);
        } else {
            dev::more_registers<consumer_registers>();
            consume_keys<D>(shared, b, tiles[dev::block_x()]);
        }
    }
}

}  // namespace

void wgmma_backward(const Backward<bf16>& b, const Batch& batch) {
    const Tiles by_keys = key_tiles(batch, block_rows);
    const Tiles by_queries = query_tiles(batch, block_rows);
    if (by_keys.count == 0) return;
    const Layout& l = b.layout;
    const std::int64_t T = rows_of(batch.cu_queries);
    const auto map = [&](const bf16* x, int heads, int rows) { return tile_map(x, T, heads, l.D, rows); };
    with_wgmma_head_size(l.D, [&]<int D>() {
        launch(keys_kernel<D>,
               {.grid = {by_keys.count, l.K}, .threads = wgmma_threads, .shared = Shared<D>::bytes, .hopper = true},
               map(b.q, l.H, step_rows), map(b.dout, l.H, step_rows), map(b.k, l.K, block_rows),
               map(b.v, l.K, block_rows), b, by_keys.at);
        launch(queries_kernel<D>,
               {.grid = {by_queries.count, l.H}, .threads = wgmma_threads, .shared = Shared<D>::bytes, .hopper = true},
               map(b.q, l.H, block_rows), map(b.dout, l.H, block_rows), map(b.k, l.K, step_rows),
               map(b.v, l.K, step_rows), b, by_queries.at);
    });
}

}  // namespace uipe::tensor::cuda::attend
