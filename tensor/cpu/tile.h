// Small dense tiles of one thread: loads that pad with zeros, and the product of two tiles, in f32 or f64, or in bf16
// with sums in f32. The products of attention are too small for a call into a GEMM library.
//
// bf16 is multiplied in pairs: two numbers that follow each other along the summed dimension share one 32-bit element,
// and a product adds both of their products to a sum. That is what the processor's instructions take (a matrix unit's,
// or vdpbf16ps), and where it lacks them, two multiply-adds do the same.
#pragma once

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>

#include "tensor/allocator.h"
#include "tensor/cpu/amx.h"
#include "tensor/cpu/simd.h"

namespace uipe::tensor::cpu {

/// Two bf16 numbers, the first in the low half.
using Pair = std::uint32_t;

/// What a product multiplies for tensors of T, and how many numbers of T one element holds.
template <class T>
struct ElementOf {
    using type = T;
    static constexpr std::int64_t numbers = 1;
};
template <>
struct ElementOf<bf16> {
    using type = Pair;
    static constexpr std::int64_t numbers = 2;
};
template <class T>
using element_t = typename ElementOf<T>::type;
template <class T>
inline constexpr std::int64_t numbers = ElementOf<T>::numbers;

/// Rows that a vector product takes at a time, two vectors of sums each, which registers hold (32 with AVX-512, else
/// 16). The left operand is padded to a multiple of it.
inline constexpr std::int64_t row_block = vector_bytes == 64 ? 8 : 4;
/// Half as many again, which each vector of the right operand then serves: with the operands 27 registers, else 15.
inline constexpr std::int64_t tall_block = row_block * 3 / 2;

/// rows x stride elements, zero at first, each row aligned for vectors and padded to a multiple of them. On a meta
/// device they are counted only.
template <class E>
class Tile {
public:
    Tile(std::int64_t rows, std::int64_t columns, Device device = {}) : stride_(round_up(columns, lanes<E>)) {
        const MemoryScope scope(MemoryClass::workspace);  // on whichever thread
        data_ = allocate(size(rows) * sizeof(E), device);
        if (device.kind == Device::Kind::cpu) zero(rows);
    }

    E* row(std::int64_t i) { return static_cast<E*>(data_.get()) + i * stride_; }
    const E* row(std::int64_t i) const { return static_cast<const E*>(data_.get()) + i * stride_; }
    std::int64_t stride() const { return stride_; }
    void zero(std::int64_t rows) { std::fill_n(row(0), size(rows), E{0}); }

private:
    std::size_t size(std::int64_t rows) const { return static_cast<std::size_t>(rows * stride_); }

    std::int64_t stride_;
    std::shared_ptr<void> data_;
};

/// The numbers x[0], …, x[numbers - 1], `step` apart, as one element; those from `n` on are zero.
template <class T>
inline element_t<T> element(const T* x, std::int64_t step, std::int64_t n) {
    if constexpr (numbers<T> == 1)
        return *x;
    else
        return x[0].bits | (n > 1 ? Pair{x[step].bits} << 16 : Pair{0});
}

/// tile[i][e] = elements along row i of x[n,D], rows `step` apart: a left operand, or scores' gradients. Zero rows
/// follow up to the next multiple of row_block.
template <class T>
void load_left(Tile<element_t<T>>& tile, std::int64_t at, const T* x, std::int64_t step, std::int64_t n,
               std::int64_t D) {
    for (std::int64_t i = 0; i < n; ++i) {
        auto* row = tile.row(at + i);
        for (std::int64_t e = 0; e < D / numbers<T>; ++e)
            row[e] = element(x + i * step + e * numbers<T>, 1, numbers<T>);
        if (D % numbers<T> != 0) row[D / numbers<T>] = element(x + i * step + D - 1, 1, 1);
    }
    for (std::int64_t i = n; i < round_up(n, row_block); ++i)
        std::fill_n(tile.row(at + i), ceil_div(D, numbers<T>), element_t<T>{0});
}

/// tile[e][d] = elements down the columns of x[n,D]: a right operand whose sum runs over the rows of x.
template <class T>
void load_right(Tile<element_t<T>>& tile, std::int64_t at, const T* x, std::int64_t step, std::int64_t n,
                std::int64_t D) {
    for (std::int64_t i = 0; i < n; i += numbers<T>) {
        auto* row = tile.row(at + i / numbers<T>);
        if (n - i >= numbers<T>)
            for (std::int64_t d = 0; d < D; ++d) row[d] = element(x + i * step + d, step, numbers<T>);
        else
            for (std::int64_t d = 0; d < D; ++d) row[d] = element(x + i * step + d, step, 1);
    }
}

/// y[j][i] = x[i][j] for four rows and four elements of 32 bits, whose rows may start anywhere.
template <class E>
inline void transpose_block(E* y, std::int64_t y_step, const void* const (&x)[4]) {
    using Four [[gnu::vector_size(16)]] = E;
    Four r[4];
    for (int i = 0; i < 4; ++i) std::memcpy(&r[i], x[i], sizeof(Four));
    const Four a = __builtin_shufflevector(r[0], r[1], 0, 4, 1, 5);
    const Four b = __builtin_shufflevector(r[2], r[3], 0, 4, 1, 5);
    const Four c = __builtin_shufflevector(r[0], r[1], 2, 6, 3, 7);
    const Four d = __builtin_shufflevector(r[2], r[3], 2, 6, 3, 7);
    const Four columns[] = {__builtin_shufflevector(a, b, 0, 1, 4, 5), __builtin_shufflevector(a, b, 2, 3, 6, 7),
                            __builtin_shufflevector(c, d, 0, 1, 4, 5), __builtin_shufflevector(c, d, 2, 3, 6, 7)};
    for (int j = 0; j < 4; ++j) std::memcpy(y + j * y_step, &columns[j], sizeof(Four));
}

/// tile[e][i] = elements along row i of x[n,D]: a right operand whose sum runs over the columns of x. Zero columns
/// follow up to the next multiple of lanes.
template <class T>
void load_right_transposed(Tile<element_t<T>>& tile, const T* x, std::int64_t step, std::int64_t n, std::int64_t D) {
    using E = element_t<T>;
    const std::int64_t rows = ceil_div(D, numbers<T>);
    const std::int64_t whole_e = sizeof(E) == 4 ? D / numbers<T> / 4 * 4 : 0;
    const std::int64_t whole_n = n / 4 * 4;
    if constexpr (sizeof(E) == 4)
        for (std::int64_t i = 0; i < whole_n; i += 4)
            for (std::int64_t e = 0; e < whole_e; e += 4) {
                const T* from = x + i * step + e * numbers<T>;
                transpose_block(tile.row(e) + i, tile.stride(), {from, from + step, from + 2 * step, from + 3 * step});
            }
    for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t e = i < whole_n ? whole_e : 0; e < rows; ++e)
            tile.row(e)[i] = element(x + i * step + e * numbers<T>, 1, D - e * numbers<T>);
    for (std::int64_t e = 0; e < rows; ++e) std::fill(tile.row(e) + n, tile.row(e) + round_up(n, lanes<E>), E{0});
}

/// The left operand of a product: element (i, l) is at data[i * row + l * column], so a transpose costs nothing.
template <class E>
struct Left {
    const E* data;
    std::int64_t row, column;
};
template <class E>
Left<E> plain(const Tile<E>& tile, std::int64_t from = 0) {
    return {tile.row(from), tile.stride(), 1};
}
template <class E>
Left<E> transposed(const Tile<E>& tile) {
    return {tile.row(0), 1, tile.stride()};
}

/// sum += left * right, one element against a vector of them.
template <class V>
inline void multiply_add(V& sum, float left, const V& right) {
    sum += left * right;
}
template <class V>
inline void multiply_add(V& sum, double left, const V& right) {
    sum += left * right;
}
inline void multiply_add(Vector<float>& sum, Pair left, const Vector<Pair>& right) {
#if defined(__AVX512BF16__)
    const __m512i pairs = _mm512_set1_epi32(static_cast<int>(left));
    sum = _mm512_dpbf16_ps(sum, (__m512bh)pairs, (__m512bh)right);
#else
    using Floats = Vector<float>;
    constexpr Pair high = 0xFFFF0000U;
    sum += std::bit_cast<float>(left << 16) * std::bit_cast<Floats>(right << 16);
    sum += std::bit_cast<float>(left & high) * std::bit_cast<Floats>(right & high);
#endif
}

/// `rows` rows and `vectors` vectors of columns of the product below, in registers.
template <std::int64_t rows, int vectors, bool accumulate, class A, class E>
inline void block_product(A* y, std::int64_t step, const Left<E>& a, const E* b, std::int64_t b_step, std::int64_t k) {
    using Sums = Vector<A>;
    using Elements = Vector<E>;
    // The loops over the block are unrolled before anything else, or the compiler would take the sums to and from the
    // stack around the loop over k, which is short.
    Sums sum[rows][vectors];
#pragma GCC unroll 16
    for (std::int64_t r = 0; r < rows; ++r)
#pragma GCC unroll 16
        for (int c = 0; c < vectors; ++c)
            sum[r][c] = accumulate ? reinterpret_cast<const Sums*>(y + r * step)[c] : Sums{};
    const E* left = a.data;
    const std::int64_t row = a.row;
    const std::int64_t column = a.column;
    for (std::int64_t l = 0; l < k; ++l, left += column, b += b_step) {
        const auto* right = reinterpret_cast<const Elements*>(b);
#pragma GCC unroll 16
        for (std::int64_t r = 0; r < rows; ++r)
#pragma GCC unroll 16
            for (int c = 0; c < vectors; ++c) multiply_add(sum[r][c], left[r * row], right[c]);
    }
#pragma GCC unroll 16
    for (std::int64_t r = 0; r < rows; ++r)
#pragma GCC unroll 16
        for (int c = 0; c < vectors; ++c) reinterpret_cast<Sums*>(y + r * step)[c] = sum[r][c];
}

/// The product below for the vector registers: in blocks of `height` rows, of tall ones in pairs, so that what is left
/// starts and ends at multiples of row_block.
template <bool accumulate, std::int64_t height, class A, class E>
void vector_product(A* y, std::int64_t y_step, const Left<E>& a, const E* b, std::int64_t b_step, std::int64_t m,
                    std::int64_t n, std::int64_t k) {
    static_assert(height == row_block || height == tall_block);
    constexpr std::int64_t step = lanes<A>;
    const auto block = [&]<std::int64_t rows>(std::int64_t i, std::int64_t j) {
        const Left<E> left{a.data + i * a.row, a.row, a.column};
        if (j + step < n)
            block_product<rows, 2, accumulate>(y + i * y_step + j, y_step, left, b + j, b_step, k);
        else
            block_product<rows, 1, accumulate>(y + i * y_step + j, y_step, left, b + j, b_step, k);
    };
    for (std::int64_t j = 0; j < n; j += 2 * step) {
        std::int64_t i = 0;
        if constexpr (height == tall_block)
            for (; i + 2 * height <= m; i += 2 * height) {
                block.template operator()<height>(i, j);
                block.template operator()<height>(i + height, j);
            }
        for (; i < m; i += row_block) block.template operator()<row_block>(i, j);
    }
}

#if defined(__AMX_BF16__)
/// The product below for the matrix unit, whose registers are set: k is a multiple of 16 and, of a left operand that is
/// a transpose, at most 64; m is rounded up to 16.
template <bool accumulate>
void matrix_product(float* y, std::int64_t y_step, const Left<Pair>& a, const Pair* b, std::int64_t b_step,
                    std::int64_t m, std::int64_t n, std::int64_t k) {
    alignas(64) Pair turned[2 * amx_side * 64];
    for (std::int64_t i = 0; i < m; i += 2 * amx_side) {
        const bool two = i + amx_side < m;
        const Pair* left = a.data + i * a.row;
        std::int64_t step = a.row;
        if (a.column != 1) {
            for (std::int64_t l = 0; l < k; l += 4)
                for (std::int64_t r = 0; r < (two ? 2 : 1) * amx_side; r += 4) {
                    const Pair* from = left + l * a.column + r;
                    transpose_block(turned + r * k + l, k,
                                    {from, from + a.column, from + 2 * a.column, from + 3 * a.column});
                }
            left = turned;
            step = k;
        }
        if (two)
            amx_rows<true, accumulate>(y + i * y_step, y_step, left, step, b, b_step, n, k);
        else
            amx_rows<false, accumulate>(y + i * y_step, y_step, left, step, b, b_step, n, k);
    }
}
#endif

/// y[m,n] from row `y_row` (+)= a[m,k] b[k,n] from row `b_row`, k in elements, each sum in one order. m is rounded up
/// to 16 and n to lanes: the tiles have room. Of bf16, where there is AMX, its registers are set. `height`, row_block
/// or tall_block, changes the time alone, not a bit.
template <bool accumulate, std::int64_t height = row_block, class A, class E>
void tile_product(Tile<A>& y, std::int64_t y_row, const Left<E>& a, const Tile<E>& b, std::int64_t b_row,
                  std::int64_t m, std::int64_t n, std::int64_t k) {
#if defined(__AMX_BF16__)
    if constexpr (std::is_same_v<E, Pair>) {
        std::int64_t whole = k / amx_side * amx_side;
        if (a.column != 1) whole = std::min<std::int64_t>(whole, 64);
        if (has_amx() && whole > 0) {
            matrix_product<accumulate>(y.row(y_row), y.stride(), a, b.row(b_row), b.stride(), m, n, whole);
            if (whole < k)
                vector_product<true, height>(y.row(y_row), y.stride(),
                                             Left<E>{a.data + whole * a.column, a.row, a.column}, b.row(b_row + whole),
                                             b.stride(), m, n, k - whole);
            return;
        }
    }
#endif
    vector_product<accumulate, height>(y.row(y_row), y.stride(), a, b.row(b_row), b.stride(), m, n, k);
}

/// f32 sums as operands of a bf16 product: y[e][i] = elements down the columns of x[n,columns], which are a multiple of
/// lanes. Without pairs, x itself is that.
inline void pair_rows(Tile<Pair>& y, const Tile<float>& x, std::int64_t n, std::int64_t columns) {
    const auto bits = [&x](std::int64_t j, std::int64_t i) {
        return __builtin_convertvector(narrowed(load(x.row(j) + i)), Vector<Pair>);
    };
    for (std::int64_t j = 0; j < n; j += 2)
        for (std::int64_t i = 0; i < columns; i += lanes<float>)
            store(y.row(j / 2) + i, j + 1 < n ? bits(j, i) | bits(j + 1, i) << 16 : bits(j, i));
}

/// The same along the rows: y[j][e] = elements of row j. A pair lies in memory as its two numbers do.
inline void pair_columns(Tile<Pair>& y, const Tile<float>& x, std::int64_t n, std::int64_t columns) {
    for (std::int64_t j = 0; j < n; ++j)
        for (std::int64_t i = 0; i < columns; i += lanes<float>) {
            const Halves numbers_of_row = narrowed(load(x.row(j) + i));
            std::memcpy(y.row(j) + i / 2, &numbers_of_row, sizeof(numbers_of_row));
        }
}

}  // namespace uipe::tensor::cpu
