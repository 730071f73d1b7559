// RMSNorm, SwiGLU, RoPE, the embedding table and the cache. Widths: one vector and less, odd ones, and more than a
// block's threads take at once.
#include <functional>

#include "tests/cuda/cuda_test.h"

namespace uipe::tensor::test {
namespace {

class CudaLayers : public CudaFloats {};
UIPE_CUDA_FLOATS(CudaLayers);

/// Runs op on the device and in f64 on the same inputs; returns both outputs.
struct Both {
    Tensor got, want;
};

const std::vector<std::pair<std::int64_t, std::int64_t>> row_shapes{{0, 8},  {1, 1},    {1, 8},   {3, 7},
                                                                    {5, 64}, {2, 2056}, {33, 24}, {2, 1031}};

TEST_P(CudaLayers, Rmsnorm) {
    for (const auto& [T, C] : row_shapes) {
        SCOPED_TRACE(cat("T ", T, " C ", C));
        const Tensor x = normal({T, C}, GetParam(), 3.0);
        const Tensor w = normal({C}, GetParam());
        const Both y{on(poisoned({T, C}, GetParam())), poisoned({T, C}, DType::f64)};
        const Both rstd{on(poisoned({T}, DType::f32)), poisoned({T}, DType::f64)};
        rmsnorm(y.got, rstd.got, on(x), on(w), 1e-5);
        rmsnorm(y.want, rstd.want, wide(x), wide(w), 1e-5);
        expect_elements(y.got, y.want);
        expect_elements(rstd.got, rstd.want);
    }
}

TEST_P(CudaLayers, AddRmsnormIsAdditionAndRmsnormBitByBit) {
    for (const auto& [T, C] : row_shapes) {
        SCOPED_TRACE(cat("T ", T, " C ", C));
        const Tensor x = on(normal({T, C}, GetParam(), 3.0));
        const Tensor r = on(normal({T, C}, GetParam()));
        const Tensor w = on(normal({C}, GetParam()));
        const auto fresh = [&] { return on(poisoned({T, C}, GetParam())); };
        const Both h{fresh(), fresh()};
        const Both y{fresh(), fresh()};
        const Both rstd{on(poisoned({T}, DType::f32)), on(poisoned({T}, DType::f32))};
        add_rmsnorm(h.got, y.got, rstd.got, x, r, w, 1e-5);
        add(h.want, x, r);
        rmsnorm(y.want, rstd.want, h.want, w, 1e-5);
        for (const Both& both : {h, y, rstd}) EXPECT_TRUE(same_bits(both.got.to(Device{}), both.want.to(Device{})));
    }
}

/// Both gradients of one shape; `with_dx` and `with_dw` say which are asked for.
void check_rmsnorm_backward(const std::function<Tensor(const Tensor&)>& on, DType dtype, std::int64_t T, std::int64_t C,
                            bool accumulate, bool with_dx, bool with_dw) {
    SCOPED_TRACE(cat("T ", T, " C ", C, " accumulate ", accumulate, " dx ", with_dx, " dw ", with_dw));
    const Tensor x = normal({T, C}, dtype, 3.0);
    const Tensor w = normal({C}, dtype);
    const Tensor dy = normal({T, C}, dtype);
    const Tensor rstd = poisoned({T}, DType::f64);
    rmsnorm(poisoned({T, C}, DType::f64), rstd, wide(x), wide(w), 1e-5);
    const Tensor dx = with_dx ? output({T, C}, dtype, accumulate) : Tensor();
    const Tensor dw = with_dw ? normal({C}, DType::f32) : Tensor();
    const Both got_dx{on(dx), wide(dx)};
    const Both got_dw{on(dw), wide(dw)};
    rmsnorm_backward(got_dx.got, got_dw.got, on(dy), on(x), on(w), on(rstd.to(DType::f32)), accumulate);
    rmsnorm_backward(got_dx.want, got_dw.want, wide(dy), wide(x), wide(w), rstd, accumulate);
    // Terms are of size 1: dy w rstd and x shift for dx; for dw a sum of T products.
    if (with_dx) expect_elements(got_dx.got, got_dx.want, 1.0);
    if (with_dw) expect_elements(got_dw.got, got_dw.want, std::sqrt(static_cast<double>(T + 1)));
}

TEST_P(CudaLayers, RmsnormBackward) {
    const auto device = [&](const Tensor& t) { return on(t); };
    for (const auto& [T, C] : row_shapes)
        for (const bool accumulate : {false, true})
            check_rmsnorm_backward(device, GetParam(), T, C, accumulate, true, true);
    check_rmsnorm_backward(device, GetParam(), 5, 24, false, true, false);
    check_rmsnorm_backward(device, GetParam(), 5, 24, false, false, true);
    check_rmsnorm_backward(device, GetParam(), 1030, 8, false, true, true);  // more rows than groups
    check_rmsnorm_backward(device, GetParam(), 1030, 3, true, true, true);
}

TEST_P(CudaLayers, RmsnormOfRowsThatAreNotAlignedToAVector) {
    const Tensor x = normal({4, 7}, GetParam());
    const Tensor w = normal({7}, GetParam());
    const Both y{on(poisoned({4, 7}, GetParam())), poisoned({2, 7}, DType::f64)};
    const Both rstd{on(poisoned({4}, DType::f32)), poisoned({2}, DType::f64)};
    rmsnorm(y.got.rows(1, 3), rstd.got.rows(1, 3), on(x).rows(1, 3), on(w), 1e-5);
    rmsnorm(y.want, rstd.want, wide(x).rows(1, 3), wide(w), 1e-5);
    expect_elements(y.got.rows(1, 3), y.want);
    for (const double v : values(y.got.rows(0, 1).to(Device{}))) EXPECT_TRUE(std::isnan(v)) << "written";
    for (const double v : values(y.got.rows(3, 4).to(Device{}))) EXPECT_TRUE(std::isnan(v)) << "written";
}

TEST_P(CudaLayers, Swiglu) {
    for (const std::int64_t n : {0, 1, 8, 1031, 4096})
        for (const double scale : {1.0, 30.0}) {
            SCOPED_TRACE(cat("n ", n, " scale ", scale));
            const Tensor gate = normal({n}, GetParam(), scale);
            const Tensor up = normal({n}, GetParam());
            const Both y{on(poisoned({n}, GetParam())), poisoned({n}, DType::f64)};
            swiglu(y.got, on(gate), on(up));
            swiglu(y.want, wide(gate), wide(up));
            // Where exp(-gate) is beyond f32, the sigmoid is 0: up to 1e-35 of y is lost.
            expect_elements(y.got, y.want, 1e-30);
        }
}

TEST_P(CudaLayers, SwigluBackward) {
    for (const std::int64_t n : {0, 1, 8, 1031})
        for (const bool accumulate_gate : {false, true})
            for (const bool accumulate_up : {false, true}) {
                SCOPED_TRACE(cat("n ", n, " accumulate ", accumulate_gate, accumulate_up));
                const Tensor gate = normal({n}, GetParam(), 3.0);
                const Tensor up = normal({n}, GetParam());
                const Tensor dy = normal({n}, GetParam());
                const Tensor dgate = output({n}, GetParam(), accumulate_gate);
                const Tensor dup = output({n}, GetParam(), accumulate_up);
                const Both to_gate{on(dgate), wide(dgate)};
                const Both to_up{on(dup), wide(dup)};
                swiglu_backward(to_gate.got, to_up.got, on(dy), on(gate), on(up), accumulate_gate, accumulate_up);
                swiglu_backward(to_gate.want, to_up.want, wide(dy), wide(gate), wide(up), accumulate_gate,
                                accumulate_up);
                expect_elements(to_gate.got, to_gate.want, 1.0);
                expect_elements(to_up.got, to_up.want, 1.0);
            }
}

TEST_P(CudaLayers, SwigluFarFromZeroIsTheIdentityOrZero) {
    const Tensor gate = from_doubles({-1e4, -100.0, 100.0, 1e4}, {4}, GetParam());
    const Tensor one = from_doubles({1.0, 1.0, 1.0, 1.0}, {4}, GetParam());
    const Tensor y = on(poisoned({4}, GetParam()));
    swiglu(y, on(gate), on(one));
    const std::vector<double> got = values(y.to(Device{}));
    EXPECT_EQ(got[0], 0.0);
    EXPECT_NEAR(got[1], 0.0, 1e-35);
    EXPECT_EQ(got[2], values(gate)[2]);
    EXPECT_EQ(got[3], values(gate)[3]);
}

TEST_P(CudaLayers, RopeAtNearAndFarPositions) {
    const Tensor positions =
        Tensor::from(std::vector<std::int32_t>{0, 1, 2, 7, 169, 2047, 4095, 4096, 70000, 99999, 100000});
    for (const auto& [heads, D] : {std::pair<std::int64_t, std::int64_t>{1, 2}, {3, 6}, {2, 64}, {5, 128}})
        for (const double theta : {10000.0, 500000.0})
            for (const bool inverse : {false, true})
                for (const bool accumulate : {false, true}) {
                    SCOPED_TRACE(cat("heads ", heads, " D ", D, " theta ", theta, " inverse ", inverse));
                    const Tensor x = normal({positions.numel(), heads * D}, GetParam());
                    const Tensor y = output(x.shape(), GetParam(), accumulate);
                    const Both turned{on(y), wide(y)};
                    rope(turned.got, on(x), positions, D, theta, inverse, accumulate);
                    rope(turned.want, wide(x), positions, D, theta, inverse, accumulate);
                    // Sine, product and sum, a rounding each, beside x of up to 4 and what was there.
                    expect_elements(turned.got, turned.want, 4.0, 4.0 * 0x1p-24);
                }
}

TEST_P(CudaLayers, RopeAtPositionZeroChangesNoBit) {
    const Tensor x = normal({1, 32}, GetParam());
    const Tensor y = on(poisoned(x.shape(), GetParam()));
    rope(y, on(x), Tensor::from(std::vector<std::int32_t>{0}), 16, 10000.0, false);
    EXPECT_TRUE(same_bits(y.to(Device{}), x));
}

TEST_P(CudaLayers, EmbeddingCopiesBits) {
    for (const std::int64_t C : {1, 7, 8, 64, 2056}) {
        const Tensor table = normal({11, C}, GetParam());
        const Tensor tokens = indices(9, 0, 11);
        const Tensor here = poisoned({9, C}, GetParam());
        const Tensor there = on(here);
        embedding(here, table, tokens);
        embedding(there, on(table), tokens);
        EXPECT_TRUE(same_bits(there.to(Device{}), here)) << "C " << C;
    }
    embedding(on(poisoned({0, 8}, GetParam())), on(normal({11, 8}, GetParam())), indices(0, 0, 11));
}

TEST_P(CudaLayers, EmbeddingBackwardAddsTheRowsOfEachToken) {
    for (const std::int64_t C : {1, 7, 8, 64, 2056})
        for (const std::int64_t T : {0, 1, 50}) {
            SCOPED_TRACE(cat("T ", T, " C ", C));
            const Tensor dy = normal({T, C}, GetParam());
            const Tensor tokens = indices(T, 3, 11);  // tokens 0 to 2 never occur
            const Tensor dtable = normal({11, C}, DType::f32);
            const Both sums{on(dtable), wide(dtable)};
            embedding_backward(sums.got, on(dy), tokens);
            embedding_backward(sums.want, wide(dy), tokens);
            expect_elements(sums.got, sums.want, std::sqrt(static_cast<double>(T + 1)));
            EXPECT_TRUE(same_bits(sums.got.rows(0, 3).to(Device{}), dtable.rows(0, 3)));
        }
}

TEST_P(CudaLayers, CacheWrite) {
    const std::vector<std::vector<std::int32_t>> slots{{0, 0, 2, 2}, {2, 0, 1, 0}, {1, 1, 0, 1}};
    const std::vector<std::vector<std::int32_t>> positions{
        {0, 1, 3, 4}, {4, 4, 0, 3}, {2, 2, 0, 2}};  // the last: thrice
    for (const std::int64_t width : {1, 7, 8, 48})
        for (std::size_t i = 0; i < slots.size(); ++i) {
            const Tensor here = normal({3, 5, width}, GetParam());
            const Tensor there = on(here);
            const Tensor x = normal({4, width}, GetParam());
            cache_write(here, x, Tensor::from(slots[i]), Tensor::from(positions[i]));
            cache_write(there, on(x), Tensor::from(slots[i]), Tensor::from(positions[i]));
            EXPECT_TRUE(same_bits(there.to(Device{}), here)) << "width " << width << " case " << i;
        }
}

}  // namespace
}  // namespace uipe::tensor::test
