// Small dense tiles of one thread, kept in the accumulator's type: loads that convert and pad with zeros, and the
// product of two tiles. The products of attention are too small for a call into a GEMM library.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>

namespace uipe::tensor::cpu {

#if defined(__AVX512F__)
inline constexpr int vector_bytes = 64;
#else
inline constexpr int vector_bytes = 32;
#endif

template <class A>
struct VectorOf;
template <>
struct VectorOf<float> {
    using type [[gnu::vector_size(vector_bytes), gnu::may_alias]] = float;
};
template <>
struct VectorOf<double> {
    using type [[gnu::vector_size(vector_bytes), gnu::may_alias]] = double;
};

/// Elements of one vector register. Rows of tiles are padded to a multiple of it.
template <class A>
inline constexpr std::int64_t lanes = vector_bytes / static_cast<int>(sizeof(A));

/// Rows that a product takes at a time, two vectors of sums each: as many as the registers hold (32 with AVX-512, else
/// 16). The left operand is padded to a multiple of it.
inline constexpr std::int64_t row_block = vector_bytes == 64 ? 8 : 4;

constexpr std::int64_t round_up(std::int64_t n, std::int64_t step) { return (n + step - 1) / step * step; }

/// rows x stride elements, zero at first, each row aligned for vectors.
template <class A>
class Tile {
public:
    Tile(std::int64_t rows, std::int64_t columns)
        : stride_(round_up(columns, lanes<A>)), data_(new (std::align_val_t{64}) A[size(rows)]()) {}

    A* row(std::int64_t i) { return data_.get() + i * stride_; }
    const A* row(std::int64_t i) const { return data_.get() + i * stride_; }
    std::int64_t stride() const { return stride_; }
    void zero(std::int64_t rows) { std::fill_n(data_.get(), size(rows), A{0}); }

private:
    struct Delete {
        void operator()(A* p) const { ::operator delete[](p, std::align_val_t{64}); }
    };
    std::size_t size(std::int64_t rows) const { return static_cast<std::size_t>(rows * stride_); }

    std::int64_t stride_;
    std::unique_ptr<A[], Delete> data_;
};

/// tile[i][d] = scale * x[i * step + d] for n rows of D elements; zero rows up to the next multiple of row_block.
template <class T, class A>
void load_rows(Tile<A>& tile, const T* x, std::int64_t step, std::int64_t n, std::int64_t D, A scale = 1) {
    for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t d = 0; d < D; ++d) tile.row(i)[d] = scale * static_cast<A>(x[i * step + d]);
    for (std::int64_t i = n; i < round_up(n, row_block); ++i) std::fill_n(tile.row(i), D, A{0});
}

/// tile[d][i] = scale * x[i * step + d] for n rows of D elements; zero columns up to the next multiple of lanes.
template <class T, class A>
void load_columns(Tile<A>& tile, const T* x, std::int64_t step, std::int64_t n, std::int64_t D, A scale = 1) {
    // Row by row of x: rows are often a power of two apart, and walking down them would evict each from the cache.
    for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t d = 0; d < D; ++d) tile.row(d)[i] = scale * static_cast<A>(x[i * step + d]);
    for (std::int64_t d = 0; d < D; ++d) std::fill(tile.row(d) + n, tile.row(d) + round_up(n, lanes<A>), A{0});
}

/// The left operand of a product: element (i, l) is at data[i * row + l * column], so a transpose costs nothing.
template <class A>
struct Left {
    const A* data;
    std::int64_t row, column;
};
template <class A>
Left<A> plain(const Tile<A>& tile) {
    return {tile.row(0), tile.stride(), 1};
}
template <class A>
Left<A> transposed(const Tile<A>& tile) {
    return {tile.row(0), 1, tile.stride()};
}

/// Rows [i, i + row_block) and `vectors` vectors of columns from j of the product below, in registers.
template <int vectors, bool accumulate, class A>
inline void block_product(Tile<A>& y, const Left<A>& a, const Tile<A>& b, std::int64_t i, std::int64_t j,
                          std::int64_t k) {
    using Vector = typename VectorOf<A>::type;
    Vector sum[row_block][vectors];
    for (int r = 0; r < row_block; ++r)
        for (int c = 0; c < vectors; ++c)
            sum[r][c] = accumulate ? reinterpret_cast<const Vector*>(y.row(i + r) + j)[c] : Vector{};
    const A* left = a.data + i * a.row;
    for (std::int64_t l = 0; l < k; ++l, left += a.column) {
        const auto* right = reinterpret_cast<const Vector*>(b.row(l) + j);
        for (int r = 0; r < row_block; ++r)
            for (int c = 0; c < vectors; ++c) sum[r][c] += left[r * a.row] * right[c];
    }
    for (int r = 0; r < row_block; ++r)
        for (int c = 0; c < vectors; ++c) reinterpret_cast<Vector*>(y.row(i + r) + j)[c] = sum[r][c];
}

/// y[m,n] (+)= a[m,k] b[k,n], each sum in order of k. m is rounded up to row_block and n to lanes: the tiles have room.
template <bool accumulate, class A>
void tile_product(Tile<A>& y, const Left<A>& a, const Tile<A>& b, std::int64_t m, std::int64_t n, std::int64_t k) {
    constexpr std::int64_t step = lanes<A>;
    for (std::int64_t j = 0; j < n; j += 2 * step)
        for (std::int64_t i = 0; i < m; i += row_block) {
            if (j + step < n)
                block_product<2, accumulate>(y, a, b, i, j, k);
            else
                block_product<1, accumulate>(y, a, b, i, j, k);
        }
}

}  // namespace uipe::tensor::cpu
