// The emulator's load_matrix, mma and products of a warpgroup, by the PTX ISA's layouts of matrix fragments and of
// matrices in shared memory; device_cuda.h and hopper.h have the formulas.
#include <algorithm>
#include <bit>

#include "tensor/cuda/device/emulator.h"

namespace uipe::emulator {
namespace {

// The two bf16 of a register.
float low(std::uint32_t x) { return std::bit_cast<float>(x << 16); }
float high(std::uint32_t x) { return std::bit_cast<float>(x & 0xffff0000U); }

}  // namespace

void load_matrix(std::uint32_t (&r)[4], const void* row, bool transposed, const std::source_location& here) {
    read_shared(row, "load_matrix", here);
    struct Data {
        const std::uint16_t* row;
        std::uint32_t* r;
    } data{static_cast<const std::uint16_t*>(row), r};
    const auto finish = []<bool across>(void* const* lanes) {
        const auto element = [lanes](int matrix, int i, int j) {
            return static_cast<std::uint32_t>(static_cast<const Data*>(lanes[matrix * 8 + i])->row[j]);
        };
        for (int l = 0; l < 32; ++l)
            for (int m = 0; m < 4; ++m) {
                const int i = l / 4;
                const int j = l % 4 * 2;
                static_cast<Data*>(lanes[l])->r[m] = across ? element(m, j, i) | element(m, j + 1, i) << 16
                                                            : element(m, i, j) | element(m, i, j + 1) << 16;
            }
        ++statistics().matrix_loads;
        for (int m = 0; m < 4; ++m) {  // 32 banks of 4 bytes: rows of 16 bytes take one of 8 places
            int rows[8] = {};
            int turns = 0;
            for (int i = 0; i < 8; ++i) {
                const auto address = reinterpret_cast<std::uintptr_t>(static_cast<const Data*>(lanes[m * 8 + i])->row);
                turns = std::max(turns, ++rows[address / 16 % 8]);
            }
            statistics().bank_conflicts += static_cast<std::uint64_t>(turns - 1);
        }
    };
    using Finish = decltype(finish);
    meet(
        "load_matrix", here, &data,
        transposed ? [](void* const* lanes) { Finish{}.template operator()<true>(lanes); }
                   : [](void* const* lanes) { Finish{}.template operator()<false>(lanes); });
}

void mma(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1,
         const std::source_location& here) {
    struct Data {
        float* d;
        const std::uint32_t* a;
        std::uint32_t b[2];
    } data{d, a, {b0, b1}};
    meet("mma", here, &data, [](void* const* lanes) {
        float left[16][16];
        float right[16][8];
        float sum[16][8];
        for (int l = 0; l < 32; ++l) {
            const Data& lane = *static_cast<const Data*>(lanes[l]);
            const int g = l / 4;
            const int t = l % 4 * 2;
            for (int i = 0; i < 4; ++i) {
                left[g + i % 2 * 8][t + i / 2 * 8] = low(lane.a[i]);
                left[g + i % 2 * 8][t + i / 2 * 8 + 1] = high(lane.a[i]);
                sum[g + i / 2 * 8][t + i % 2] = lane.d[i];
            }
            for (int i = 0; i < 2; ++i) {
                right[t + i * 8][g] = low(lane.b[i]);
                right[t + i * 8 + 1][g] = high(lane.b[i]);
            }
        }
        for (int i = 0; i < 16; ++i)
            for (int k = 0; k < 16; ++k)
                for (int j = 0; j < 8; ++j) sum[i][j] += left[i][k] * right[k][j];
        for (int l = 0; l < 32; ++l)
            for (int i = 0; i < 4; ++i) static_cast<Data*>(lanes[l])->d[i] = sum[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2];
        ++statistics().matrix_products;
    });
}

// PTX ISA, "Matrix descriptor format" and "Canonical layouts".
std::uint32_t place(std::uint64_t matrix, bool across, int i, int k) {
    const auto field = [matrix](int bit) { return static_cast<std::uint32_t>((matrix >> bit & 0x3FFF) << 4); };
    const std::uint32_t leading = field(16);
    const std::uint32_t stride = field(32);
    const int mode = static_cast<int>(matrix >> 62);
    const int span = mode == 0 ? 16 : 256 >> mode;
    const auto u = [](int x) { return static_cast<std::uint32_t>(x); };
    std::uint32_t byte = field(0);
    if (!across)
        byte += u(i % 8 * span) + u(i / 8) * stride + u(k % 8 * 2) + u(k / 8) * (mode == 0 ? leading : 16);
    else if (mode == 0)
        byte += u(i % 8 * 2) + u(i / 8) * stride + u(k % 8 * 16) + u(k / 8) * leading;
    else
        byte += u(i % (span / 2) * 2) + u(i / (span / 2)) * leading + u(k % 8 * span) + u(k / 8) * stride;
    return swizzled(byte, span);
}

void multiply(const Issued& p, const std::byte* shared) {
    constexpr int most = 256;
    static float left[64][16];  // beyond what the stack of a fiber holds; blocks run one at a time
    static float right[16][most];
    static float sum[64][most];
    const int N = p.common.N;
    const auto element = [shared](std::uint64_t matrix, bool across, int i, int k) {
        std::uint16_t x = 0;
        __builtin_memcpy(&x, shared + place(matrix, across, i, k), sizeof x);
        return low(x);
    };
    for (int l = 0; l < 128; ++l) {
        const int row = l / 32 * 16 + l % 32 / 4;
        const int column = l % 4 * 2;
        for (int j = 0; j < N / 8; ++j)
            for (int i = 0; i < 4; ++i)
                sum[row + i / 2 * 8][8 * j + column + i % 2] = p.common.add ? p.d[l][4 * j + i] : 0.0F;
        if (p.common.a == nullptr) continue;
        for (int i = 0; i < 4; ++i) {
            left[row + i % 2 * 8][column + i / 2 * 8] = low(p.a[l][i]);
            left[row + i % 2 * 8][column + i / 2 * 8 + 1] = high(p.a[l][i]);
        }
    }
    for (int k = 0; k < 16; ++k) {
        for (int i = 0; i < 64 && p.common.a == nullptr; ++i) left[i][k] = element(p.common.a_matrix, false, i, k);
        for (int j = 0; j < N; ++j) right[k][j] = element(p.common.b_matrix, p.common.across, j, k);
    }
    for (int i = 0; i < 64; ++i)
        for (int k = 0; k < 16; ++k)
            for (int j = 0; j < N; ++j) sum[i][j] += left[i][k] * right[k][j];
    for (int l = 0; l < 128; ++l) {
        const int row = l / 32 * 16 + l % 32 / 4;
        for (int j = 0; j < N / 8; ++j)
            for (int i = 0; i < 4; ++i) p.d[l][4 * j + i] = sum[row + i / 2 * 8][8 * j + l % 4 * 2 + i % 2];
    }
    statistics().group_product_blocks += static_cast<std::uint64_t>(4 * N / 8);
}

}  // namespace uipe::emulator
