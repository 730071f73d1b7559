// Layers against their formulas, written out here element by element in f64.
#include "nn/layers.h"

#include <gtest/gtest.h>

#include "tests/autograd/inputs.h"

namespace uipe::nn {
namespace {

using test::apart;
using test::ints;
using test::normal;
using test::same_bits;

constexpr std::int64_t T = 5;
constexpr std::int64_t C = 7;
constexpr std::int64_t F = 6;

double at(const Tensor& x, std::int64_t i, std::int64_t j) { return x.data<double>()[i * x.dim(1) + j]; }

/// x w^T.
Tensor product(const Tensor& x, const Tensor& w) {
    const Tensor y = Tensor::zeros({x.dim(0), w.dim(0)}, tensor::DType::f64);
    for (std::int64_t t = 0; t < x.dim(0); ++t)
        for (std::int64_t n = 0; n < w.dim(0); ++n)
            for (std::int64_t c = 0; c < x.dim(1); ++c) y.data<double>()[t * w.dim(0) + n] += at(x, t, c) * at(w, n, c);
    return y;
}

std::vector<std::string> names(const Module& module, const std::string& prefix = "") {
    std::vector<std::string> out;
    for (const Parameter& p : module.parameters(prefix)) out.push_back(p.name);
    return out;
}

TEST(Layers, Linear) {
    const Tensor x = normal({T, C}, 1);
    const Tensor w = normal({F, C}, 2);
    const Linear layer(w);
    EXPECT_LE(apart(layer(Variable(x)).value(), product(x, w)), 1e-15);
    EXPECT_EQ(names(layer, "head."), std::vector<std::string>{"head.weight"});
}

TEST(Layers, Embedding) {
    const Tensor table = normal({9, C}, 1);
    const Embedding layer(table);
    const Tensor y = layer(ints({8, 0, 8})).value();
    EXPECT_TRUE(same_bits(y.rows(0, 1), table.rows(8, 9)));
    EXPECT_TRUE(same_bits(y.rows(1, 2), table.rows(0, 1)));
    EXPECT_TRUE(same_bits(y.rows(2, 3), table.rows(8, 9)));
    EXPECT_THROW(layer(ints({9})), Error);
    EXPECT_THROW(layer(ints({-1})), Error);
}

TEST(Layers, RmsNorm) {
    const Tensor x = normal({T, C}, 1, 3.0);
    const Tensor w = normal({C}, 2);
    for (const double eps : {1e-6, 0.7}) {
        const Tensor expected = Tensor::empty({T, C}, tensor::DType::f64);
        for (std::int64_t t = 0; t < T; ++t) {
            double squares = 0.0;
            for (std::int64_t c = 0; c < C; ++c) squares += at(x, t, c) * at(x, t, c);
            for (std::int64_t c = 0; c < C; ++c)
                expected.data<double>()[t * C + c] =
                    at(x, t, c) / std::sqrt(squares / double{C} + eps) * w.data<double>()[c];
        }
        EXPECT_LE(apart(RmsNorm(w, eps)(Variable(x)).value(), expected), 1e-15);
    }
}

TEST(Layers, SwiGlu) {
    const Tensor x = normal({T, C}, 1);
    const Tensor gate = normal({F, C}, 2);
    const Tensor up = normal({F, C}, 3);
    const Tensor down = normal({C, F}, 4);
    const Tensor a = product(x, gate);
    const Tensor middle = product(x, up);
    for (std::int64_t i = 0; i < middle.numel(); ++i)
        middle.data<double>()[i] *= a.data<double>()[i] / (1.0 + std::exp(-a.data<double>()[i]));
    const SwiGlu layer(gate, up, down);
    EXPECT_LE(apart(layer(Variable(x)).value(), product(middle, down)), 1e-15);
    EXPECT_EQ(names(layer, "mlp."),
              (std::vector<std::string>{"mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"}));
}

TEST(Layers, ShareTheirWeights) {
    const Tensor w = normal({F, C}, 2);
    const Linear layer(w);
    const Variable x(normal({T, C}, 1));
    tensor::fill(w, 0.0);
    EXPECT_EQ(tensor::sum_of_squares(layer(x).value()), 0.0);
    EXPECT_EQ(layer.weight().value().raw(), w.raw());
}

TEST(Layers, TakeTheGradientOfTheirWeights) {
    const Linear layer(normal({F, C}, 2));
    const Tensor x = normal({T, C}, 1);
    autograd::backward(autograd::sum(layer(Variable(x))));
    std::vector<double> columns(C, 0.0);
    for (std::int64_t t = 0; t < T; ++t)
        for (std::int64_t c = 0; c < C; ++c) columns[static_cast<std::size_t>(c)] += at(x, t, c);
    const Tensor grad = layer.parameters().front().variable.grad();
    for (std::int64_t n = 0; n < F; ++n) EXPECT_LE(apart(grad.rows(n, n + 1).view({C}), Tensor::from(columns)), 1e-15);
}

}  // namespace
}  // namespace uipe::nn
