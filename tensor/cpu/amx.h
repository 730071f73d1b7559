// The matrix unit that some x86 processors have (AMX): products of 16 x 16 sums, 32 numbers of bf16 at a time. Its
// operands are the tiles of tile.h as they lie: pairs along a row on the left, pairs down the columns on the right.
#pragma once

#if defined(__AMX_BF16__)
#include <immintrin.h>
#endif

#include <cstdint>

namespace uipe::tensor::cpu {

/// Whether the compiler, the processor and the system let us use it; asked once.
bool has_amx();

/// While it lives, this thread's eight tile registers are 16 rows of 64 bytes each. Without AMX, nothing.
class AmxRegisters {
public:
    AmxRegisters();
    ~AmxRegisters();
    AmxRegisters(const AmxRegisters&) = delete;
    AmxRegisters& operator=(const AmxRegisters&) = delete;
};

#if defined(__AMX_BF16__)

/// What was stored is in memory: GCC's intrinsics that read it do not say so.
inline void amx_stores_end() { __asm__ volatile("" ::: "memory"); }

/// Numbers and sums of one register's row, and its rows.
inline constexpr std::int64_t amx_side = 16;

/// 16 or 32 rows and columns of y (+)= a b, k pairs, a multiple of 16; steps are of rows, in elements.
template <bool two_rows, bool two_columns, bool accumulate>
inline void amx_block(float* y, std::int64_t y_step, const std::uint32_t* a, std::int64_t a_step,
                      const std::uint32_t* b, std::int64_t b_step, std::int64_t k) {
    float* below = y + amx_side * y_step;
    const auto y_bytes = static_cast<std::size_t>(y_step) * sizeof(float);
    const auto a_bytes = static_cast<std::size_t>(a_step) * sizeof(std::uint32_t);
    const auto b_bytes = static_cast<std::size_t>(b_step) * sizeof(std::uint32_t);
    amx_stores_end();
    if constexpr (accumulate) {
        _tile_loadd(0, y, y_bytes);
        if constexpr (two_columns) _tile_loadd(1, y + amx_side, y_bytes);
        if constexpr (two_rows) _tile_loadd(2, below, y_bytes);
        if constexpr (two_rows && two_columns) _tile_loadd(3, below + amx_side, y_bytes);
    } else {
        _tile_zero(0);
        if constexpr (two_columns) _tile_zero(1);
        if constexpr (two_rows) _tile_zero(2);
        if constexpr (two_rows && two_columns) _tile_zero(3);
    }
    for (std::int64_t l = 0; l < k; l += amx_side) {
        const std::uint32_t* right = b + l * b_step;
        _tile_loadd(4, a + l, a_bytes);
        _tile_loadd(6, right, b_bytes);
        _tile_dpbf16ps(0, 4, 6);
        if constexpr (two_columns) {
            _tile_loadd(7, right + amx_side, b_bytes);
            _tile_dpbf16ps(1, 4, 7);
        }
        if constexpr (two_rows) {
            _tile_loadd(5, a + amx_side * a_step + l, a_bytes);
            _tile_dpbf16ps(2, 5, 6);
        }
        if constexpr (two_rows && two_columns) _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, y, y_bytes);
    if constexpr (two_columns) _tile_stored(1, y + amx_side, y_bytes);
    if constexpr (two_rows) _tile_stored(2, below, y_bytes);
    if constexpr (two_rows && two_columns) _tile_stored(3, below + amx_side, y_bytes);
}

/// 16 or 32 rows of y[·,n] (+)= a b; n is rounded up to 16.
template <bool two_rows, bool accumulate>
inline void amx_rows(float* y, std::int64_t y_step, const std::uint32_t* a, std::int64_t a_step, const std::uint32_t* b,
                     std::int64_t b_step, std::int64_t n, std::int64_t k) {
    for (std::int64_t j = 0; j < n; j += 2 * amx_side)
        if (j + amx_side < n)
            amx_block<two_rows, true, accumulate>(y + j, y_step, a, a_step, b + j, b_step, k);
        else
            amx_block<two_rows, false, accumulate>(y + j, y_step, a, a_step, b + j, b_step, k);
}

#endif

}  // namespace uipe::tensor::cpu
