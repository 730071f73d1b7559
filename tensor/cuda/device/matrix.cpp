// The emulator's load_matrix and mma, by the PTX ISA's layouts of matrix fragments; device_cuda.h has the formulas.
#include <algorithm>
#include <bit>

#include "tensor/cuda/device/emulator.h"

namespace uipe::emulator {

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
        const auto low = [](std::uint32_t x) { return std::bit_cast<float>(x << 16); };
        const auto high = [](std::uint32_t x) { return std::bit_cast<float>(x & 0xffff0000U); };
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

}  // namespace uipe::emulator
