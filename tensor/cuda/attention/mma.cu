// Level 3, forward: FlashAttention-2 (Dao 2023) on tensor cores.
//
// A block takes 128 queries of one head, a warp 32 of them, and walks the keys that they see in tiles of 64. Tiles of
// K and V take turns in a ring of buffers that cp.async fills ahead of the products. Scores, probabilities and the
// output stay in registers: a lane's scores are, rounded to bf16, its part of the left operand of P V. Softmax is
// online, in base 2. Tiles above the diagonal are not visited, by a block or by one of its warps; those on it are
// masked. Queries past the end of a sequence are computed like others, of zeros, and not written.
// Registers and shared memory leave room for two blocks on a multiprocessor (one on an sm_89 with D > 64).
// Measured: not yet.
#include "tensor/cuda/attention/mma.h"
#include "tensor/cuda/attention/softmax.h"

namespace uipe::tensor::cuda::attend {
namespace {

constexpr int M = 2;  // times 16 rows of queries a warp
constexpr int N = 8;  // times 8 keys a tile
constexpr int warp_rows = 16 * M;
constexpr int query_rows = warp_rows * mma_warps;
constexpr int key_rows = 8 * N;

/// Buffers of the ring: as many as leave room for a second block on an sm_80.
template <int D>
constexpr int buffers = D <= 64 ? 4 : 3;
template <int D>
constexpr std::size_t shared_bytes = sizeof(bf16) * (tile_size<D>(query_rows) + buffers<D> * tile_size<D>(key_rows));

/// Finds the warp's rows again: the products need the registers that would remember them.
template <int D>
__device__ inline void write_results(const Forward<bf16>& f, const Tile& tile, const Softmax<M>& rows,
                                     float (&out)[M][D / 8][4], bf16* own) {
    const Sequence sequence = attend::sequence(f.layout, tile.sequence);
    const int first_row = tile.first + dev::warp() * warp_rows;
    const int valid = sequence.queries - first_row;
    if (valid <= 0) return;
    const int head = dev::block_y();
    const std::int64_t at = (sequence.query + first_row) * f.layout.H + head;
    finish(rows, out, f.lse + at, f.layout.H, valid, f.layout.scale);
    write_rows<D, M>(f.out + at * D, f.layout.H * D, valid, out, 1.0F, false, own);
}

template <int D>
__global__ void __launch_bounds__(mma_threads, 2) forward_kernel(Forward<bf16> f, const Tile* tiles) {
    constexpr int ring_size = buffers<D>;
    DEV_DYNAMIC_SHARED(shared);
    bf16* const queries = reinterpret_cast<bf16*>(shared);
    bf16* const ring = queries + tile_size<D>(query_rows);

    const int head = dev::block_y();
    const int step = f.layout.H * D;
    const int key_step = f.layout.K * D;
    const Sequence sequence = attend::sequence(f.layout, tiles[dev::block_x()].sequence);
    const int first_query = tiles[dev::block_x()].first;
    const std::int64_t query_at = (sequence.query + first_query) * step + head * D;
    const std::int64_t key_at = sequence.key * key_step + head / (f.layout.H / f.layout.K) * D;
    const int keys = dev::min_of(sequence.keys, sequence.shift() + first_query + query_rows);  // that a row may see
    const int steps = 2 * ((keys + key_rows - 1) / key_rows);                                  // K and V of each tile

    const auto copy_tile = [&](int i) {
        if (i < steps) {
            const int first = i / 2 * key_rows;
            copy_rows<D>(ring + i % ring_size * tile_size<D>(key_rows), key_rows,
                         (i % 2 == 0 ? f.k : f.v) + key_at + static_cast<std::int64_t>(first) * key_step, key_step,
                         sequence.keys - first);
        }
        dev::copy_commit();
    };
    // Waits for copy i; the buffer of copy i - 1, which all have read, takes the next.
    const auto next_tile = [&](int i) {
        dev::copy_wait<ring_size - 2>();
        dev::sync();
        copy_tile(i + ring_size - 1);
        return ring + i % ring_size * tile_size<D>(key_rows);
    };
    copy_rows<D>(queries, query_rows, f.q + query_at, step, sequence.queries - first_query);
    for (int i = 0; i < ring_size - 1; ++i) copy_tile(i);

    const int first_row = first_query + dev::warp() * warp_rows;
    const int visible = first_row < sequence.queries ? sequence.shift() + first_row : -warp_rows;  // to the first row
    bf16* const own = queries + tile_size<D>(dev::warp() * warp_rows);
    float out[M][D / 8][4];
    clear(out);
    Softmax<M> rows;
    for (int i = 0; i < steps; i += 2) {
        const int first = i / 2 * key_rows;
        const bool sees = first < visible + warp_rows;
        std::uint32_t p[M][N / 2][4];
        const bf16* const k = next_tile(i);
        if (sees) {
            float s[M][N][4];
            clear(s);
            multiply_rows<D>(s, own, k);
            if (first + key_rows - 1 > visible) mask<false>(s, visible - first);
            float factor[M][2];
            soften(s, rows, factor, f.layout.scale * log2_e);
            rescale(out, factor);
            round_to_operand(p, s);
        }
        const bf16* const v = next_tile(i + 1);
        if (sees) multiply_columns<D>(out, p, v);
    }
    write_results<D>(f, tiles[dev::block_x()], rows, out, own);
}

}  // namespace

bool mma_takes(DType dtype, std::int64_t D) {
    return dtype == DType::bf16 && (D == 16 || D == 32 || D == 48 || D == 64 || D == 96 || D == 128);
}

void mma_forward(const Forward<bf16>& f, const Batch& batch) {
    const Tiles tiles = query_tiles(batch, query_rows);
    with_head_size(f.layout.D, [&]<int D>() {
        launch(forward_kernel<D>,
               {.grid = {tiles.count, f.layout.H}, .threads = mma_threads, .shared = shared_bytes<D>}, f, tiles.at);
    });
}

}  // namespace uipe::tensor::cuda::attend
