// What the kernels of level 4 share: tiles that the copy engine brings, a ring of them between a producer and its
// consumers, and the two products of attention over a warpgroup.
//
// A block is three warpgroups. The first gives most of its registers away; one of its threads (backward: one of its
// warps) starts copies, far ahead. The other two compute, each 64 rows of every result; the results' layout is that of
// level 3 with M = 1, for a warp owns 16 of the rows (mma.h).
//
// A tile in shared memory is rows of one head, 2 bytes an element, in panels of 64 columns: panel p is [rows, 64], 128
// bytes a row, swizzled by the copy engine as products read it. A tile has `valid` rows of a sequence; the rest are
// zeros, whatever lies behind the sequence's end. So that the engine makes them zeros too, its map (tile_map) has a
// dimension for the rows of a tile, that ends with it, and another for where the tile begins, a row apart as well: row
// y of plane z is row z + y - rows of the tensor, and copying from row rows - valid of plane first + valid begins at
// row `first` and has `valid` rows left. (Triton's ragged tensors are read in this way.)
#pragma once

#include "tensor/cuda/attention/mma.h"
#include "tensor/cuda/device/tensor_map.h"

namespace uipe::tensor::cuda::attend {

constexpr int consumers = 2;    // warpgroups that compute
constexpr int group_rows = 64;  // of a result, for each of them
constexpr int block_rows = group_rows * consumers;
constexpr int wgmma_threads = dev::warpgroup_size * (1 + consumers);
constexpr int panel = 64;         // columns
constexpr int panel_bytes = 128;  // of a row
// Of 65536 registers, 168 each at the start.
constexpr int producer_registers = 24;
constexpr int consumer_registers = 240;

/// Elements of a tile.
template <int D>
constexpr int box_size(int rows) {
    return rows * D;
}

/// Rows of all sequences.
inline std::int64_t rows_of(const Tensor& cu) { return cu.data<std::int32_t>()[cu.numel() - 1]; }

/// A map of x [T, heads, D] for tiles of `rows`.
inline dev::TensorMap tile_map(const bf16* x, std::int64_t T, int heads, int D, int rows) {
    const std::int64_t row = std::int64_t{2} * heads * D;
    const auto begin = reinterpret_cast<std::uintptr_t>(x) - static_cast<std::uintptr_t>(rows * row);
    return tensor_map({.base = reinterpret_cast<const void*>(begin),
                       .sizes = {std::int64_t{heads} * D, rows, T + 1},
                       .strides = {row, row},
                       .box = {panel, rows, 1},
                       .swizzle = dev::Swizzle::bytes128});
}

/// Starts to copy a tile of `rows`: those of one head from row `first` of the tensor on, `valid` of them, or `rows` if
/// there are more. The barrier counts 2 box_size<D>(rows) bytes.
template <int D>
__device__ inline void copy_tile(bf16* tile, int rows, const dev::TensorMap& map, dev::Barrier* barrier, int head,
                                 std::int64_t first, int valid) {
    valid = dev::min_of(valid, rows);
    DEV_UNROLL
    for (int p = 0; p < D / panel; ++p)
        dev::copy_box(tile + p * rows * panel, map, barrier, head * D + p * panel, rows - valid,
                      static_cast<int>(first) + valid);
}

/// Buffers that take turns: item i of the producer's is in buffer i % size. A buffer is full when its bytes are there
/// (and, where its items hold more than a copy, `fillers` have arrived), and free again when every warp of the
/// consumers has let go.
template <int size>
struct Ring {
    dev::Barrier* barriers;  // 2 size of them: full, then free

    __device__ void init(int fillers) const {
        for (int i = 0; i < size; ++i) {
            dev::barrier_init(barriers + i, fillers);
            dev::barrier_init(barriers + size + i, 4 * consumers);
        }
    }
    __device__ static int buffer(int i) { return i % size; }
    __device__ dev::Barrier* full(int i) const { return barriers + i % size; }
    // The producer's: the first turn finds every buffer free.
    __device__ void wait_free(int i DEV_AND_HERE) const {
        dev::barrier_wait(barriers + size + i % size, (i / size + 1) % 2 DEV_AND_PASS);
    }
    // The consumers'.
    __device__ void wait_full(int i DEV_AND_HERE) const { dev::barrier_wait(full(i), i / size % 2 DEV_AND_PASS); }
    __device__ void let_go(int i DEV_AND_HERE) const {
        dev::sync_warp(DEV_PASS);
        if (dev::lane() == 0) dev::barrier_arrive(barriers + size + i % size DEV_AND_PASS);
    }
};

/// Where row `row` of a tile begins, as a matrix of rows of D, and of columns of D.
__device__ inline std::uint64_t rows_at(const bf16* tile, int row) {
    return dev::matrix_at(tile + row * panel, 16, 8 * panel_bytes, dev::Swizzle::bytes128);
}
__device__ inline std::uint64_t columns_at(const bf16* tile, int rows) {
    return dev::matrix_at(tile, rows * panel_bytes, 8 * panel_bytes, dev::Swizzle::bytes128);
}

/// s = a b^T: a the warpgroup's 64 rows, from row `first` on, of a tile of `a_rows`, b a tile of 8 N rows.
template <int D, int a_rows, int N>
__device__ inline void group_rows_product(float (&s)[1][N][4], const bf16* a, int first, const bf16* b) {
    const std::uint64_t left = rows_at(a, first);
    const std::uint64_t right = rows_at(b, 0);
    DEV_UNROLL
    for (int k = 0; k < D; k += 16) {
        const int in_panel = k % panel * 2;
        dev::multiply<false>(s[0], dev::matrix_after(left, k / panel * a_rows * panel_bytes + in_panel),
                             dev::matrix_after(right, k / panel * 8 * N * panel_bytes + in_panel), k > 0);
    }
}

/// sum += p b: b a tile of 16 K rows.
template <int D, int K>
__device__ inline void group_columns_product(float (&sum)[1][D / 8][4], const std::uint32_t (&p)[1][K][4],
                                             const bf16* b) {
    const std::uint64_t right = columns_at(b, 16 * K);
    DEV_UNROLL
    for (int k = 0; k < K; ++k)
        dev::multiply<true>(sum[0], p[0][k], dev::matrix_after(right, 16 * k * panel_bytes), true);
}

/// Where a warp may put 16 rows on their way to memory: within a tile of block_rows whose rows the warpgroup alone
/// has read, and has done so.
template <int D>
__device__ inline bf16* staging(bf16* tile) {
    const int group = dev::warpgroup() - 1;
    // D = 128: the warpgroup's rows are 8 KiB in each of two panels, of which a warp takes half of one.
    const int warps_a_panel = 4 / (D / panel);
    const int p = dev::warp_of_group() / warps_a_panel;
    return tile + p * block_rows * panel + group * group_rows * panel + dev::warp_of_group() % warps_a_panel * 16 * D;
}

/// body.operator()<D>() for a head size that wgmma_takes.
template <class Body>
void with_wgmma_head_size(int D, const Body& body) {
    if (D == 64) return body.template operator()<64>();
    return body.template operator()<128>();
}

}  // namespace uipe::tensor::cuda::attend
