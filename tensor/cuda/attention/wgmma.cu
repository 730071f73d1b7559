// Level 4, forward, for sm_90: FlashAttention-3 (Shah et al. 2024) without its turns between warpgroups.
//
// What it adds to level 3: products are started by a warpgroup, read both operands (or all but the probabilities) from
// shared memory, and go on while the warpgroup computes; the copy engine brings tiles, started by a thread that does
// nothing else; barriers in shared memory, not sync(), tell of full and of free buffers, so no warp waits for another
// but for data.
//
// A block takes 128 queries of one head, each of two warpgroups 64 of them, and walks the keys that they see in tiles
// of 128. The scores of the next tile are started before the last probabilities meet their values, so that softmax has
// products beside it. Tiles above the diagonal are not visited; those on it are masked. Queries past the end of a
// sequence are computed like others, of zeros, and not written.
//
// sm_90a: 168 registers at the start, 24 for the producer and 240 for the others after setmaxnreg, none spilled; 81 KiB
// of shared memory with D = 64, 161 KiB with D = 128; one block on a multiprocessor. Measured: not yet.
#include "tensor/cuda/attention/softmax.h"
#include "tensor/cuda/attention/wgmma.h"

namespace uipe::tensor::cuda::attend {
namespace {

constexpr int key_rows = 128;
constexpr int N = key_rows / 8;
constexpr int buffers = 4;  // K and V of two tiles

template <int D>
constexpr std::size_t shared_bytes = sizeof(bf16) * (box_size<D>(block_rows) + buffers * box_size<D>(key_rows)) +
                                     sizeof(dev::Barrier) * (2 * buffers + 1);

static_assert(shared_bytes<64> < 81 * 1024 && shared_bytes<128> < 161 * 1024);

/// What a block works on; every warpgroup finds it for itself.
struct Work {
    Sequence sequence;
    int first_query, steps;  // tiles of keys
};
__device__ inline Work work(const Layout& layout, const Tile* tiles) {
    const Tile tile = tiles[dev::block_x()];
    const Sequence sequence = attend::sequence(layout, tile.sequence);
    const int keys = dev::min_of(sequence.keys, sequence.shift() + tile.first + block_rows);  // that a row may see
    return {sequence, tile.first, (keys + key_rows - 1) / key_rows};
}

template <int D>
struct Shared {
    bf16 *queries, *tiles;
    Ring<buffers> ring;
    dev::Barrier* queries_full;

    __device__ explicit Shared(std::byte* begin)
        : queries(reinterpret_cast<bf16*>(begin)),
          tiles(queries + box_size<D>(block_rows)),
          ring{reinterpret_cast<dev::Barrier*>(tiles + buffers * box_size<D>(key_rows))},
          queries_full(ring.barriers + 2 * buffers) {}
    /// Item i: K of tile i / 2 if even, else V.
    __device__ bf16* tile(int i) const { return tiles + Ring<buffers>::buffer(i) * box_size<D>(key_rows); }
};

template <int D>
__device__ inline void produce(const Shared<D>& shared, const dev::TensorMap& q, const dev::TensorMap& k,
                               const dev::TensorMap& v, const Layout& layout, const Tile* tiles) {
    const Work w = work(layout, tiles);
    const int head = dev::block_y();
    dev::barrier_arrive_expect(shared.queries_full, 2 * box_size<D>(block_rows));
    copy_tile<D>(shared.queries, block_rows, q, shared.queries_full, head, w.sequence.query + w.first_query,
                 w.sequence.queries - w.first_query);
    for (int i = 0; i < 2 * w.steps; ++i) {
        const int first = i / 2 * key_rows;
        shared.ring.wait_free(i);
        dev::barrier_arrive_expect(shared.ring.full(i), 2 * box_size<D>(key_rows));
        copy_tile<D>(shared.tile(i), key_rows, i % 2 == 0 ? k : v, shared.ring.full(i), head / (layout.H / layout.K),
                     w.sequence.key + first, w.sequence.keys - first);
    }
}

template <int D>
__device__ inline void consume(const Shared<D>& shared, const Forward<bf16>& f, const Tile* tiles) {
    const Work w = work(f.layout, tiles);
    const int group = dev::warpgroup() - 1;
    const int first_row = w.first_query + group * group_rows;
    if (first_row >= w.sequence.queries) {  // no rows: buffers must be let go all the same
        for (int i = 0; i < 2 * w.steps; ++i) {
            shared.ring.wait_full(i);
            shared.ring.let_go(i);
        }
        return;
    }
    const int keys = dev::min_of(w.sequence.keys, w.sequence.shift() + first_row + group_rows);
    const int steps = (keys + key_rows - 1) / key_rows;  // one fewer than the block's, or as many
    const int warp_row = first_row + dev::warp_of_group() * 16;
    const int visible = w.sequence.shift() + warp_row;  // to the warp's first row
    float out[1][D / 8][4];
    clear(out);
    Softmax<1> rows;
    std::uint32_t p[1][N / 2][4];
    float s[1][N][4];
    float factor[1][2];
    const auto start_scores = [&](int step) {
        shared.ring.wait_full(2 * step);
        dev::products_begin(s[0]);
        group_rows_product<D, block_rows>(s, shared.queries, group * group_rows, shared.tile(2 * step));
        dev::products_commit();
    };
    const auto start_output = [&](int step) {
        shared.ring.wait_full(2 * step + 1);
        dev::products_begin(out[0], p[0]);
        group_columns_product<D>(out, p, shared.tile(2 * step + 1));
        dev::products_commit();
    };
    const auto scores_to_probabilities = [&](int step) {
        shared.ring.let_go(2 * step);
        if ((step + 1) * key_rows - 1 > visible) mask<false>(s, visible - step * key_rows);
        soften(s, rows, factor, f.layout.scale * log2_e);
    };

    dev::barrier_wait(shared.queries_full, 0);
    start_scores(0);
    dev::products_wait<0>(s[0]);
    scores_to_probabilities(0);
    round_to_operand(p, s);
    for (int step = 1; step < steps; ++step) {
        start_scores(step);
        start_output(step - 1);
        dev::products_wait<1>(s[0]);
        scores_to_probabilities(step);
        dev::products_wait<0>(out[0]);
        shared.ring.let_go(2 * step - 1);
        rescale(out, factor);
        round_to_operand(p, s);
    }
    start_output(steps - 1);
    dev::products_wait<0>(out[0]);

    dev::sync_some(1 + group, dev::warpgroup_size);  // all have read the queries, where results pass
    const int valid = w.sequence.queries - warp_row;
    if (valid <= 0) return;
    const std::int64_t at = (w.sequence.query + warp_row) * f.layout.H + dev::block_y();
    finish(rows, out, f.lse + at, f.layout.H, valid, f.layout.scale);
    write_rows<D, 1>(f.out + at * D, f.layout.H * D, valid, out, 1.0F, false, staging<D>(shared.queries));
}

template <int D>
__global__ void __launch_bounds__(wgmma_threads, 1)
    forward_kernel(const DEV_GRID_CONSTANT dev::TensorMap q, const DEV_GRID_CONSTANT dev::TensorMap k,
                   const DEV_GRID_CONSTANT dev::TensorMap v, Forward<bf16> f, const Tile* tiles) {
    if constexpr (dev::hopper) {
        DEV_DYNAMIC_SHARED_1024(begin);
        const Shared<D> shared(begin);
        if (dev::thread() == 0) {
            shared.ring.init(1);
            dev::barrier_init(shared.queries_full, 1);
            dev::barriers_ready();
        }
        dev::sync();
        if (dev::warpgroup() == 0) {
            dev::fewer_registers<producer_registers>();
            if (dev::thread() == 0) produce<D>(shared, q, k, v, f.layout, tiles);
        } else {
            dev::more_registers<consumer_registers>();
            consume<D>(shared, f, tiles);
        }
    }
}

}  // namespace

bool wgmma_takes(DType dtype, std::int64_t D) { return dtype == DType::bf16 && (D == 64 || D == 128); }

void wgmma_forward(const Forward<bf16>& f, const Batch& batch) {
    const Tiles tiles = query_tiles(batch, block_rows);
    if (tiles.count == 0) return;
    const Layout& l = f.layout;
    const dev::TensorMap q = tile_map(f.q, rows_of(batch.cu_queries), l.H, l.D, block_rows);
    const dev::TensorMap k = tile_map(f.k, rows_of(batch.cu_keys), l.K, l.D, key_rows);
    const dev::TensorMap v = tile_map(f.v, rows_of(batch.cu_keys), l.K, l.D, key_rows);
    with_wgmma_head_size(l.D, [&]<int D>() {
        launch(forward_kernel<D>,
               {.grid = {tiles.count, l.H}, .threads = wgmma_threads, .shared = shared_bytes<D>, .hopper = true}, q, k,
               v, f, tiles.at);
    });
}

}  // namespace uipe::tensor::cuda::attend
