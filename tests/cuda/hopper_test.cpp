// The primitives of hopper.h against the PTX ISA's text, element by element, on the emulator and on a GPU of sm_90.
#include "tests/cuda/hopper.h"

#include <array>
#include <bit>
#include <functional>

#include "tests/cuda/cuda_test.h"

namespace uipe::tensor::test {
namespace {

class CudaHopper : public Cuda {
protected:
    void SetUp() override {
        Cuda::SetUp();
        if (!IsSkipped() && !has_hopper()) GTEST_SKIP() << "for sm_90 alone";
    }
};

// --- Products ------------------------------------------------------------------------------------------------------

/// Another bf16 for each i < 2048, from 2^-31 on.
float numbered(std::size_t i) { return std::bit_cast<float>(static_cast<std::uint32_t>(0x3000 + i) << 16); }

/// How a matrix lies: PTX ISA, "Canonical layouts", T = 8 for bf16, with strides of `leading` and `stride` elements.
struct Canonical {
    int swizzle;  // as in the descriptor
    bool across;  // M or N contiguous ("MN-major"), else K
    int leading, stride;
    int first_k = 0;  // of the 16 that are multiplied
};

/// ((8,m),(T,2k)) and ((T,w,m),(8,k)) with the table's strides, then Swizzle<b,4,3> of the byte.
int byte_of(const Canonical& c, int i, int k) {
    constexpr int T = 8;
    const int w = c.swizzle == 0 ? 1 : 16 >> c.swizzle;  // 8, 4, 2 times 16 bytes
    int element = 0;
    if (!c.across)
        element = i % 8 * w * T + i / 8 * c.stride + k % T + k / T * (c.swizzle == 0 ? c.leading : T);
    else if (c.swizzle == 0)
        element = i % T + i / T * c.stride + k % 8 * T + k / 8 * c.leading;
    else
        element = i % T + i / T % w * T + i / (w * T) * c.leading + k % 8 * w * T + k / 8 * c.stride;
    const int byte = 2 * element;
    const int bits = c.swizzle == 0 ? 0 : 4 - c.swizzle;  // Swizzle<3>, <2>, <1>
    return byte ^ ((byte >> 7 & ((1 << bits) - 1)) << 4);
}

/// x (i, k), i < n, in shared memory.
InShared laid_out(const Canonical& c, int n, const std::function<float(int, int)>& x) {
    InShared y;
    y.image.assign(8192, 0x7FC0);
    for (int i = 0; i < n; ++i)
        for (int k = 0; k < 16; ++k)
            y.image[static_cast<std::size_t>(byte_of(c, i, c.first_k + k) / 2)] = bf16(x(i, k)).bits;
    y.begin = c.across ? 2 * (c.first_k / 8) * c.stride : 2 * c.first_k;
    y.leading = 2 * c.leading;
    y.stride = 2 * c.stride;
    y.swizzle = c.swizzle;
    return y;
}

std::vector<float> zeros(int n) { return std::vector<float>(static_cast<std::size_t>(n), 0.0F); }

/// Every element of both operands, each against a one: a permutation of K is one operand, numbers are the other.
void check_product(int N, const Canonical* a_place, const Canonical& b_place) {
    SCOPED_TRACE(cat("N ", N, " a ", a_place == nullptr ? -1 : a_place->swizzle, " b ", b_place.swizzle, " across ",
                     b_place.across, " first k ", b_place.first_k));
    for (int turn = 0; turn < 16; ++turn)
        for (const bool numbers_left : {false, true}) {
            const auto a = [&](int i, int k) {
                return numbers_left ? numbered(static_cast<std::size_t>(i * 16 + k))
                                    : static_cast<float>(k == (i + turn) % 16);
            };
            const auto b = [&](int j, int k) {
                return numbers_left ? static_cast<float>(k == (j + turn) % 16)
                                    : numbered(static_cast<std::size_t>(j * 16 + k));
            };
            std::vector<float> a_values;
            for (int i = 0; i < 64; ++i)
                for (int k = 0; k < 16; ++k) a_values.push_back(a(i, k));
            const std::vector<float> d =
                group_product(N, a_place == nullptr ? InShared{} : laid_out(*a_place, 64, a), a_values,
                              laid_out(b_place, N, b), b_place.across, zeros(64 * N));
            for (int i = 0; i < 64; ++i)
                for (int j = 0; j < N; ++j)
                    ASSERT_EQ(d[static_cast<std::size_t>(i * N + j)],
                              numbers_left ? a(i, (j + turn) % 16) : b(j, (i + turn) % 16))
                        << "turn " << turn << " numbers left " << numbers_left << " d(" << i << "," << j << ")";
        }
}

// 128 bytes: rows of 64 elements, eight of them 512; 64: 32 and 256; 32: 16 and 128.
const Canonical rows_plain{0, false, 1024, 64};  // the second half of K lies beyond all rows
const Canonical rows_128{1, false, 8, 512};
const Canonical rows_64{2, false, 8, 256};
const Canonical rows_32{3, false, 8, 128};

TEST_F(CudaHopper, ProductOfRowsAndColumns) {
    check_product(64, &rows_plain, rows_plain);
    check_product(64, &rows_128, rows_128);
    check_product(64, &rows_64, rows_64);
    check_product(64, &rows_32, rows_32);
    check_product(128, &rows_128, rows_128);
}

TEST_F(CudaHopper, ProductFromRegisters) {
    check_product(64, nullptr, rows_128);
    check_product(128, nullptr, rows_32);
}

TEST_F(CudaHopper, ProductWithNContiguous) {
    check_product(64, &rows_128, {0, true, 1024, 64});
    check_product(64, nullptr, {1, true, 8, 512});
    check_product(64, &rows_128, {2, true, 512, 256});
    check_product(64, nullptr, {3, true, 256, 128});
    check_product(128, nullptr, {1, true, 1024, 512});  // two panels of 16 k
    check_product(128, &rows_64, {3, true, 256, 128});
}

TEST_F(CudaHopper, ProductOfALaterK) {
    check_product(64, nullptr, {1, false, 8, 512, 16});
    check_product(64, nullptr, {1, false, 8, 512, 48});
    check_product(64, nullptr, {2, false, 8, 256, 16});
    check_product(64, nullptr, {1, true, 4096, 512, 16});
    check_product(128, nullptr, {1, true, 4096, 512, 48});
}

TEST_F(CudaHopper, ProductAddsOrBeginsAfresh) {
    for (const int N : {64, 128}) {
        std::vector<float> c(static_cast<std::size_t>(64 * N));
        std::iota(c.begin(), c.end(), 0.5F);
        const auto one = [](int, int) { return 1.0F; };
        const InShared a = laid_out(rows_128, 64, one);
        const InShared b = laid_out(rows_128, N, one);
        std::vector<float> sums = c;
        for (float& x : sums) x += 16.0F;
        EXPECT_EQ(group_product(N, a, zeros(1024), b, false, c), sums);
        EXPECT_EQ(group_product(N, {}, std::vector<float>(1024, 1.0F), b, false, c), sums);
        EXPECT_EQ(group_product_afresh(N, a, b, false), std::vector<float>(c.size(), 16.0F));
    }
}

// --- Copies of boxes -----------------------------------------------------------------------------------------------

/// PTX ISA, "Tensor swizzling modes": of 16-byte chunks, each row of the swizzle's width has its own order, by the
/// number of its 128 bytes within the pattern of 1024 (512, 256).
std::size_t chunk_of(int swizzle, int row, int chunk) {
    switch (swizzle) {
        case 1:
            return static_cast<std::size_t>(row * 8 + (chunk ^ row % 8));
        case 2:
            return static_cast<std::size_t>(row * 4 + (chunk ^ row / 2 % 4));
        default:
            return static_cast<std::size_t>(row * 2 + (chunk ^ row / 4 % 2));
    }
}

/// A box of a tensor [5,20,72], 80 elements from row to row and 1704 from plane to plane.
void check_box_of(int swizzle, const int (&box)[3], const int (&at)[3]) {
    SCOPED_TRACE(cat("swizzle ", swizzle, " at ", at[0], " ", at[1], " ", at[2]));
    const std::int64_t sizes[3] = {72, 20, 5};
    std::vector<bf16> values(5 * 1704);
    for (std::size_t i = 0; i < values.size(); ++i) values[i].bits = static_cast<std::uint16_t>(i + 1);
    const std::vector<bf16> got =
        copied_box(values, {{72, 20, 5}, {2 * 80, 2 * 1704}, {box[0], box[1], box[2]}, swizzle, {at[0], at[1], at[2]}});
    for (int row = 0; row < box[1] * box[2]; ++row)
        for (int column = 0; column < box[0]; ++column) {
            const std::int64_t x = at[0] + column;
            const std::int64_t y = at[1] + row % box[1];
            const std::int64_t z = at[2] + row / box[1];
            const bool inside = x >= 0 && x < sizes[0] && y >= 0 && y < sizes[1] && z >= 0 && z < sizes[2];
            const std::size_t byte =
                swizzle == 0 ? static_cast<std::size_t>(2 * (row * box[0] + column))
                             : chunk_of(swizzle, row, column / 8) * 16 + static_cast<std::size_t>(column % 8 * 2);
            ASSERT_EQ(got[byte / 2].bits, inside ? static_cast<std::uint16_t>(z * 1704 + y * 80 + x + 1) : 0)
                << "row " << row << " column " << column;
        }
}

TEST_F(CudaHopper, BoxesAreSwizzledAndZerosOutside) {
    for (const auto& at : {std::array{0, 0, 0}, {8, 3, 1}, {16, 12, 4}, {-8, -3, -1}, {64, 19, 3}, {0, 30, 0}}) {
        const int place[3] = {at[0], at[1], at[2]};
        check_box_of(1, {64, 16, 2}, place);
        check_box_of(2, {32, 16, 2}, place);
        check_box_of(3, {16, 16, 2}, place);
        check_box_of(0, {24, 5, 3}, place);
    }
}

/// Attention's tiles: a dimension that ends with the tile, and a plane that begins before the tensor.
TEST_F(CudaHopper, ABoxEndsWhereItsRowsDo) {
    const int rows = 16;
    std::vector<bf16> values(64 * 40);
    for (std::size_t i = 0; i < values.size(); ++i) values[i].bits = static_cast<std::uint16_t>(i + 1);
    for (const auto& [first, valid] : {std::pair{0, 16}, {0, 1}, {7, 5}, {24, 16}, {39, 1}}) {
        const std::vector<bf16> got = copied_box(
            values, {{64, rows, 41}, {128, 128}, {64, rows, 1}, 1, {0, rows - valid, first + valid}, -64 * rows});
        for (int row = 0; row < rows; ++row)
            for (int column = 0; column < 64; ++column) {
                const std::size_t at = chunk_of(1, row, column / 8) * 8 + static_cast<std::size_t>(column % 8);
                ASSERT_EQ(got[at].bits, row < valid ? static_cast<std::uint16_t>((first + row) * 64 + column + 1) : 0)
                    << "first " << first << " row " << row << " column " << column;
            }
    }
}

// --- Barriers ------------------------------------------------------------------------------------------------------

TEST_F(CudaHopper, ARingOfBuffersKeepsItsOrder) {
    const std::vector<std::uint32_t> got = through_a_ring(9);
    for (std::size_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], i / 64 * 100 + (i + 1) % 32) << i;
}

TEST_F(CudaHopper, SomeWarpsMeetWithoutTheOthers) {
    const std::vector<std::uint32_t> got = exchanged_in_pairs();
    for (std::uint32_t t = 0; t < 128; ++t) EXPECT_EQ(got[t], t / 32 % 2 == 0 ? (t + 64) % 128 + 1000 : t + 2000) << t;
}

}  // namespace
}  // namespace uipe::tensor::test
