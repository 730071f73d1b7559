// What the kernels of level 3 share: tiles of rows in shared memory, and the two products of attention over a warp.
//
// A block is four warps. A tile in shared memory is rows of one head, 2 bytes an element, swizzled: a row takes a
// multiple of eight chunks of 16 bytes, and load_matrix finds eight rows in eight different banks. A warp owns 16 M
// rows of every result, and each result has the mma layout in registers: with g = lane / 4 and t = lane % 4,
// x[m][n][i] is row 16m + g + 8 (i / 2), column 8n + 2t + i % 2.
#pragma once

#include <limits>

#include "tensor/cuda/attention/attention.h"

namespace uipe::tensor::cuda::attend {

constexpr int mma_warps = 4;
constexpr int mma_threads = mma_warps * dev::warp_size;
constexpr float log2_e = 1.44269504F;
constexpr float infinity = std::numeric_limits<float>::infinity();

/// Chunks from one row of a tile to the next.
template <int D>
constexpr int chunks = D <= 64 ? 8 : 16;
/// Elements of a tile.
template <int D>
constexpr int tile_size(int rows) {
    return rows * chunks<D> * 8;
}

/// Starts to copy rows that lie `step` elements apart into a tile; zeros for rows from `valid` on.
template <int D>
__device__ inline void copy_rows(bf16* tile, int rows, const bf16* from, std::int64_t step, int valid) {
    DEV_NO_UNROLL  // addresses of many copies at once would take the products' registers
        for (int i = dev::thread(); i < rows * (D / 8); i += mma_threads) {
        const int row = i / (D / 8);
        const int chunk = i % (D / 8);
        dev::copy_async(tile + dev::swizzle(row, chunk, chunks<D>), from + row * step + chunk * 8, row < valid);
    }
}

/// Where the chunk `more` (even) chunks after one at `offset`, which is the first or second of its row, lies. One
/// exclusive or with a constant, so a lane keeps few addresses.
__device__ constexpr int chunks_after(int offset, int more) { return (offset ^ more % 8 * 8) + more / 8 * 64; }

/// sum += a b^T: a the warp's 16 M rows of a tile, b a tile of 8 N rows.
template <int D, int M, int N>
__device__ inline void multiply_rows(float (&sum)[M][N][4], const bf16* a, const bf16* b) {
    const int lane = dev::lane();
    const int at = dev::swizzle(lane % 16, lane / 16, chunks<D>);
    const int bt = dev::swizzle(lane / 16 * 8 + lane % 8, lane / 8 % 2, chunks<D>);
    // Loads run ahead of the products as far as the loop is unrolled: into registers that large sums need.
    DEV_UNROLL_BY((M > 1 && D > 96 ? 2 : D / 16))
    for (int k = 0; k < D / 8; k += 2) {
        std::uint32_t left[M][4];
        DEV_UNROLL
        for (int m = 0; m < M; ++m) dev::load_matrix(left[m], a + tile_size<D>(16 * m) + chunks_after(at, k));
        DEV_UNROLL
        for (int n = 0; n < N; n += 2) {
            std::uint32_t right[4];
            dev::load_matrix(right, b + tile_size<D>(8 * n) + chunks_after(bt, k));
            DEV_UNROLL
            for (int m = 0; m < M; ++m) {
                dev::mma(sum[m][n], left[m], right[0], right[1]);
                dev::mma(sum[m][n + 1], left[m], right[2], right[3]);
            }
        }
    }
}

/// A result rounded to bf16: the left operand of a product. p[m][k] holds columns 16 k to 16 k + 15.
template <int M, int N>
__device__ inline void round_to_operand(std::uint32_t (&p)[M][N / 2][4], const float (&x)[M][N][4]) {
    DEV_UNROLL
    for (int m = 0; m < M; ++m) {
        DEV_UNROLL
        for (int k = 0; k < N / 2; ++k) {
            DEV_UNROLL
            for (int i = 0; i < 4; ++i)
                p[m][k][i] = dev::pack(x[m][2 * k + i / 2][i % 2 * 2], x[m][2 * k + i / 2][i % 2 * 2 + 1]);
        }
    }
}

/// sum += p b: b a tile of 16 K rows.
template <int D, int M, int K>
__device__ inline void multiply_columns(float (&sum)[M][D / 8][4], const std::uint32_t (&p)[M][K][4], const bf16* b) {
    const int lane = dev::lane();
    const int bt = dev::swizzle(lane % 16, lane / 16, chunks<D>);
    DEV_UNROLL
    for (int k = 0; k < K; ++k) {
        DEV_UNROLL
        for (int n = 0; n < D / 8; n += 2) {
            std::uint32_t right[4];
            dev::load_matrix<true>(right, b + tile_size<D>(16 * k) + chunks_after(bt, n));
            DEV_UNROLL
            for (int m = 0; m < M; ++m) {
                dev::mma(sum[m][n], p[m][k], right[0], right[1]);
                dev::mma(sum[m][n + 1], p[m][k], right[2], right[3]);
            }
        }
    }
}

template <int M, int N>
__device__ inline void clear(float (&x)[M][N][4]) {
    DEV_UNROLL
    for (int m = 0; m < M; ++m) {
        DEV_UNROLL
        for (int n = 0; n < N; ++n) {
            DEV_UNROLL
            for (int i = 0; i < 4; ++i) x[m][n][i] = 0.0F;
        }
    }
}

/// Scores become -infinity where the number of the key is above that of the query by more than `ahead`. Queries are
/// rows and keys columns, or the other way about.
template <bool keys_are_rows, int M, int N>
__device__ inline void mask(float (&x)[M][N][4], int ahead) {
    const int lane_key = keys_are_rows ? dev::lane() / 4 : dev::lane() % 4 * 2;
    const int lane_query = keys_are_rows ? dev::lane() % 4 * 2 : dev::lane() / 4;
    const int most = ahead + lane_query - lane_key;
    DEV_UNROLL
    for (int m = 0; m < M; ++m) {
        DEV_UNROLL
        for (int n = 0; n < N; ++n) {
            DEV_UNROLL
            for (int i = 0; i < 4; ++i) {
                const int row = 16 * m + i / 2 * 8;
                const int column = 8 * n + i % 2;
                if ((keys_are_rows ? row - column : column - row) > most) x[m][n][i] = -infinity;
            }
        }
    }
}

/// Writes the warp's rows (the first `valid` of them) to global memory, 16 bytes a lane: factor * x, or what was there
/// plus that, rounded once. `tile`: 16 M rows of shared memory that no other warp uses.
template <int D, int M>
__device__ inline void write_rows(bf16* to, std::int64_t step, int valid, const float (&x)[M][D / 8][4], float factor,
                                  bool accumulate, bf16* tile) {
    const auto for_each_chunk = [&](const auto& body) {
        for (int i = dev::lane(); i < 16 * M * (D / 8); i += dev::warp_size) {
            const int row = i / (D / 8);
            const int chunk = i % (D / 8);
            if (row < valid) body(to + row * step + chunk * 8, tile + dev::swizzle(row, chunk, chunks<D>));
        }
    };
    dev::sync_warp();  // other lanes may still read the tile's last content
    if (accumulate) for_each_chunk([](bf16* global, bf16* shared) { dev::store(shared, dev::load(global)); });
    dev::sync_warp();
    const int g = dev::lane() / 4;
    const int t = dev::lane() % 4;
    DEV_UNROLL
    for (int m = 0; m < M; ++m) {
        DEV_UNROLL
        for (int n = 0; n < D / 8; ++n) {
            DEV_UNROLL
            for (int half = 0; half < 2; ++half) {
                const int row = 16 * m + g + 8 * half;
                bf16* at = tile + dev::swizzle(row, n, chunks<D>) + 2 * t;
                float low = factor * x[m][n][2 * half];
                float high = factor * x[m][n][2 * half + 1];
                if (accumulate) {
                    low += dev::to_float(at[0]);
                    high += dev::to_float(at[1]);
                }
                *reinterpret_cast<std::uint32_t*>(at) = dev::pack(low, high);
            }
        }
    }
    dev::sync_warp();
    for_each_chunk([](bf16* global, bf16* shared) { dev::store(global, dev::load(shared)); });
}

/// body.operator()<D>() for a head size that mma_takes.
template <class Body>
void with_head_size(int D, const Body& body) {
    switch (D) {
        case 16:
            return body.template operator()<16>();
        case 32:
            return body.template operator()<32>();
        case 48:
            return body.template operator()<48>();
        case 64:
            return body.template operator()<64>();
        case 96:
            return body.template operator()<96>();
        default:
            return body.template operator()<128>();
    }
}

}  // namespace uipe::tensor::cuda::attend
