// Embedding, RMSNorm and SwiGLU.
#include "tests/tensor/reference.h"

namespace uipe::tensor::test {
namespace {

class Layers : public EachType {};
UIPE_EACH_FLOAT_TYPE(Layers);

struct Rows {
    std::int64_t T, C;
};
const std::vector<Rows> shapes{{0, 5}, {1, 1}, {3, 7}, {17, 33}, {50, 130}};

TEST_P(Layers, EmbeddingCopiesTheRowOfEachToken) {
    for (const auto& [T, C] : shapes) {
        const Tensor table = normal({11, C}, GetParam());
        const Tensor tokens = indices(T, 0, 11);
        const Tensor y = poisoned({T, C}, GetParam());
        embedding(y, table, tokens);
        for (std::int64_t t = 0; t < T; ++t) {
            const std::int64_t id = tokens.to_vector<std::int32_t>()[static_cast<std::size_t>(t)];
            EXPECT_TRUE(same_bits(y.rows(t, t + 1), table.rows(id, id + 1)));
        }
    }
}

TEST_P(Layers, EmbeddingBackwardAddsEveryRowOfATokenToWhatIsThere) {
    for (const auto& [T, C] : shapes) {
        const Tensor tokens = indices(T, 0, 6);  // few ids: most of them repeat
        const Tensor dy = normal({T, C}, GetParam());
        const Tensor dtable = normal({6, C}, accumulator_of(GetParam()));
        std::vector<Want> want(static_cast<std::size_t>(6 * C));
        const auto id = tokens.to_vector<std::int32_t>();
        const auto g = values(dy);
        for (std::size_t i = 0; i < g.size(); ++i) {
            const auto width = static_cast<std::size_t>(C);
            want[static_cast<std::size_t>(id[i / width]) * width + i % width].add(g[i]);
        }
        add_before(want, dtable);
        embedding_backward(dtable, dy, tokens);
        expect_near(dtable, want, static_cast<double>(T + 1));
    }
}

TEST(EmbeddingChecks, RefusesATokenOutsideTheTable) {
    const Tensor table = Tensor::zeros({4, 2}, DType::f32);
    const Tensor y = Tensor::zeros({1, 2}, DType::f32);
    for (const std::int32_t id : {-1, 4}) {
        EXPECT_THROW(embedding(y, table, Tensor::from(std::vector<std::int32_t>{id})), Error);
        EXPECT_THROW(embedding_backward(table, y, Tensor::from(std::vector<std::int32_t>{id})), Error);
    }
}

TEST_P(Layers, RmsnormScalesEachRowByItsRootMeanSquare) {
    for (const auto& [T, C] : shapes)
        for (const double eps : {1e-5, 0.5}) {
            SCOPED_TRACE(cat(T, "x", C, " eps ", eps));
            const Tensor x = normal({T, C}, GetParam(), 3.0);
            const Tensor w = normal({C}, GetParam());
            const Tensor y = poisoned({T, C}, GetParam());
            const Tensor rstd = poisoned({T}, accumulator_of(GetParam()));
            rmsnorm(y, rstd, x, w, eps);
            const auto vx = values(x);
            const auto vw = values(w);
            std::vector<Want> want_y(vx.size());
            std::vector<Want> want_rstd(static_cast<std::size_t>(T));
            for (std::size_t t = 0; t < want_rstd.size(); ++t) {
                const auto width = static_cast<std::size_t>(C);
                double squares = 0.0;
                for (std::size_t c = 0; c < width; ++c) squares += vx[t * width + c] * vx[t * width + c];
                const double r = 1.0 / std::sqrt(squares / static_cast<double>(C) + eps);
                want_rstd[t].add(r);
                for (std::size_t c = 0; c < width; ++c) want_y[t * width + c].add(vx[t * width + c] * r * vw[c]);
            }
            // The sum of squares has positive terms only: C + 1 roundings, halved by the root; then root, division,
            // mean, eps and two products.
            const double roundings = static_cast<double>(C) / 2 + 7;
            expect_near(rstd, want_rstd, roundings, "rstd");
            expect_near(y, want_y, roundings, "y");
        }
}

TEST_P(Layers, AddRmsnormIsAdditionAndRmsnormBitByBit) {
    for (const auto& [T, C] : shapes) {
        SCOPED_TRACE(cat(T, "x", C));
        const Tensor x = normal({T, C}, GetParam(), 3.0);
        const Tensor r = normal({T, C}, GetParam());
        const Tensor w = normal({C}, GetParam());
        const DType acc = accumulator_of(GetParam());
        const Tensor h = poisoned({T, C}, GetParam());
        const Tensor y = poisoned({T, C}, GetParam());
        const Tensor rstd = poisoned({T}, acc);
        add_rmsnorm(h, y, rstd, x, r, w, 1e-5);
        const Tensor sum = poisoned({T, C}, GetParam());
        const Tensor norm = poisoned({T, C}, GetParam());
        const Tensor scale = poisoned({T}, acc);
        add(sum, x, r);
        rmsnorm(norm, scale, sum, w, 1e-5);
        EXPECT_TRUE(same_bits(h, sum));
        EXPECT_TRUE(same_bits(y, norm));
        EXPECT_TRUE(same_bits(rstd, scale));
    }
}

TEST_P(Layers, RmsnormBackwardIsTheFormulaWithOrWithoutEitherOutput) {
    for (const auto& [T, C] : shapes)
        for (const bool accumulate : {false, true}) {
            SCOPED_TRACE(cat(T, "x", C, " accumulate ", accumulate));
            const Tensor x = normal({T, C}, GetParam(), 2.0);
            const Tensor w = normal({C}, GetParam());
            const Tensor dy = normal({T, C}, GetParam());
            const Tensor rstd = poisoned({T}, accumulator_of(GetParam()));
            rmsnorm(poisoned({T, C}, GetParam()), rstd, x, w, 1e-5);
            const Tensor dx = output({T, C}, GetParam(), accumulate);
            const Tensor dw = normal({C}, accumulator_of(GetParam()));
            const auto vx = values(x);
            const auto vw = values(w);
            const auto g = values(dy);
            const auto r = values(rstd);
            const auto width = static_cast<std::size_t>(C);
            std::vector<Want> want_dx(vx.size());
            std::vector<Want> want_dw(width);
            for (std::size_t t = 0; t < r.size(); ++t) {
                Want dot;
                for (std::size_t c = 0; c < width; ++c) dot.add(g[t * width + c] * vw[c] * vx[t * width + c]);
                const double r3 = r[t] * r[t] * r[t] / static_cast<double>(C);
                for (std::size_t c = 0; c < width; ++c) {
                    const std::size_t i = t * width + c;
                    want_dx[i].add(g[i] * vw[c] * r[t]);
                    want_dx[i].value -= vx[i] * dot.value * r3;
                    want_dx[i].terms += std::abs(vx[i]) * dot.terms * r3;
                    want_dw[c].add(g[i] * vx[i] * r[t]);
                }
            }
            if (accumulate) add_before(want_dx, dx);
            add_before(want_dw, dw);
            const Tensor dx_alone = dx.clone();
            const Tensor dw_alone = dw.clone();
            rmsnorm_backward(dx, dw, dy, x, w, rstd, accumulate);
            expect_near(dx, want_dx, static_cast<double>(C + 10), "dx");
            expect_near(dw, want_dw, static_cast<double>(T + 4), "dw");
            rmsnorm_backward(dx_alone, {}, dy, x, w, rstd, accumulate);
            rmsnorm_backward({}, dw_alone, dy, x, w, rstd, accumulate);
            EXPECT_TRUE(same_bits(dx, dx_alone));
            EXPECT_TRUE(same_bits(dw, dw_alone));
        }
}

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

TEST_P(Layers, SwigluIsSiluOfTheGateTimesUp) {
    for (const auto& [T, F] : shapes) {
        const Tensor gate = normal({T, F}, GetParam(), 4.0);
        const Tensor up = normal({T, F}, GetParam());
        const Tensor y = poisoned({T, F}, GetParam());
        swiglu(y, gate, up);
        const auto a = values(gate);
        const auto u = values(up);
        std::vector<Want> want(a.size());
        for (std::size_t i = 0; i < a.size(); ++i) want[i].add(a[i] * sigmoid(a[i]) * u[i]);
        expect_near(y, want, 10);  // exp (2 ulp, 4 roundings), sum, quotient, product
    }
}

TEST_P(Layers, SwigluBackwardIsTheFormulaForEachOutputAlone) {
    for (const auto& [T, F] : shapes)
        for (int flags = 0; flags < 4; ++flags) {
            SCOPED_TRACE(cat(T, "x", F, " flags ", flags));
            const bool to_gate = (flags & 1) != 0;
            const bool to_up = (flags & 2) != 0;
            const Tensor gate = normal({T, F}, GetParam(), 4.0);
            const Tensor up = normal({T, F}, GetParam());
            const Tensor dy = normal({T, F}, GetParam());
            const Tensor dgate = output({T, F}, GetParam(), to_gate);
            const Tensor dup = output({T, F}, GetParam(), to_up);
            const auto a = values(gate);
            const auto u = values(up);
            const auto g = values(dy);
            std::vector<Want> want_gate(a.size());
            std::vector<Want> want_up(a.size());
            for (std::size_t i = 0; i < a.size(); ++i) {
                const double s = sigmoid(a[i]);
                want_gate[i].add(g[i] * u[i] * s);
                want_gate[i].add(g[i] * u[i] * s * a[i] * (1.0 - s));
                want_gate[i].terms += std::abs(g[i] * u[i] * s * a[i]);  // 1 - s cancels
                want_up[i].add(g[i] * a[i] * s);
            }
            if (to_gate) add_before(want_gate, dgate);
            if (to_up) add_before(want_up, dup);
            swiglu_backward(dgate, dup, dy, gate, up, to_gate, to_up);
            expect_near(dgate, want_gate, 14, "dgate");
            expect_near(dup, want_up, 11, "dup");
        }
}

TEST_P(Layers, SwigluAndItsGradientStayFiniteFarOut) {
    const Tensor gate = from_doubles({-1e4, -200, -88, 88, 200, 1e4}, {1, 6}, GetParam());
    const Tensor one = Tensor::full({1, 6}, GetParam(), 1.0);
    const Tensor y = poisoned({1, 6}, GetParam());
    swiglu(y, gate, one);
    const auto a = values(gate);
    for (std::size_t i = 0; i < 3; ++i) EXPECT_NEAR(values(y)[i], 0.0, 1e-30);
    for (std::size_t i = 3; i < 6; ++i) EXPECT_EQ(values(y)[i], a[i]);
    const Tensor dgate = poisoned({1, 6}, GetParam());
    const Tensor dup = poisoned({1, 6}, GetParam());
    swiglu_backward(dgate, dup, one, gate, one, false, false);
    EXPECT_TRUE(all_finite(dgate));
    EXPECT_TRUE(all_finite(dup));
    for (std::size_t i = 3; i < 6; ++i) EXPECT_EQ(values(dgate)[i], 1.0);
}

TEST_P(Layers, GiveTheSameBitsForAnyThreads) {
    const std::int64_t T = 211;
    const std::int64_t C = 203;
    const Tensor x = normal({T, C}, GetParam());
    const Tensor w = normal({C}, GetParam());
    const Tensor dy = normal({T, C}, GetParam());
    const Tensor tokens = indices(T, 0, 9);
    const DType acc = accumulator_of(GetParam());
    expect_same_bits_for_any_threads([&] {
        const Tensor y = poisoned({T, C}, GetParam());
        const Tensor rstd = poisoned({T}, acc);
        rmsnorm(y, rstd, x, w, 1e-5);
        const Tensor sum = poisoned({T, C}, GetParam());
        const Tensor normed = poisoned({T, C}, GetParam());
        add_rmsnorm(sum, normed, poisoned({T}, acc), x, dy, w, 1e-5);
        const Tensor dx = poisoned({T, C}, GetParam());
        const Tensor dw = Tensor::zeros({C}, acc);
        rmsnorm_backward(dx, dw, dy, x, w, rstd, false);
        const Tensor z = poisoned({T, C}, GetParam());
        swiglu(z, x, dy);
        const Tensor dgate = poisoned({T, C}, GetParam());
        const Tensor dup = poisoned({T, C}, GetParam());
        swiglu_backward(dgate, dup, dy, x, y, false, false);
        const Tensor dtable = Tensor::zeros({9, C}, acc);
        embedding_backward(dtable, dy, tokens);
        const Tensor rows = poisoned({T, C}, GetParam());
        embedding(rows, x, tokens);
        return std::vector<Tensor>{y, rstd, sum, normed, dx, dw, z, dgate, dup, dtable, rows};
    });
}

}  // namespace
}  // namespace uipe::tensor::test
