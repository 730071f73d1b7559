// A linear layer with an adapter against the layer of the merged weight, W' = W + s B A.
#include "nn/lora.h"

#include <gtest/gtest.h>

#include "nn/layers.h"
#include "nn/optimizer.h"
#include "tests/autograd/inputs.h"

namespace uipe::nn {
namespace {

using tensor::DType;
using test::apart;
using test::ints;
using test::normal;
using test::same_bits;

constexpr std::int64_t T = 6;
constexpr std::int64_t C = 10;
constexpr std::int64_t N = 7;
constexpr std::int64_t r = 3;
constexpr double scale = 1.7;

Linear adapted(DType dtype, double p = 0.0) {
    Linear layer(normal({N, C}, 2, 1.0, dtype));
    layer.freeze();
    layer.set_adapter(Lora(normal({r, C}, 3, 1.0, dtype), normal({N, r}, 4, 1.0, dtype), scale, p, 9));
    return layer;
}

/// y = x (W + s B A)^T with W' as the parameter.
Linear merged() {
    const Tensor w = Tensor::empty({N, C}, DType::f64);
    tensor::matmul(w, normal({N, r}, 4), false, normal({r, C}, 3), false);
    tensor::axpby(w, 1.0, normal({N, C}, 2), scale);
    return Linear(w);
}

/// s op(a) op(b).
Tensor product(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b) {
    const Tensor y = Tensor::empty({a.dim(transpose_a ? 1 : 0), b.dim(transpose_b ? 0 : 1)}, DType::f64);
    tensor::matmul(y, a, transpose_a, b, transpose_b);
    tensor::axpby(y, scale, y.clone(), 0.0);
    return y;
}

Tensor grad_of(const Linear& layer, const std::string& name) {
    for (const Parameter& p : layer.parameters())
        if (p.name == name) return p.variable.grad();
    return {};
}

TEST(Lora, ValueAndGradientsAreThoseOfTheMergedWeight) {
    const Linear reference = merged();
    const Variable x_ref = Variable::leaf(normal({T, C}, 1));
    const Variable want = reference(x_ref);
    const Tensor seed = normal({T, N}, 5);
    backward(want, seed);
    const Tensor dw = reference.weight().grad();
    // f32 rounds some fifteen times on the way to a sum of ten products.
    for (const auto& [dtype, tolerance] : {std::pair(DType::f64, 1e-14), std::pair(DType::f32, 4e-6)}) {
        const Linear layer = adapted(dtype);
        const Variable x = Variable::leaf(normal({T, C}, 1, 1.0, dtype));
        const Variable y = layer(x);
        EXPECT_LE(apart(y.value(), want.value()), tolerance);
        backward(y, seed.to(dtype));
        EXPECT_LE(apart(x.grad(), x_ref.grad()), tolerance);
        EXPECT_LE(apart(grad_of(layer, "lora_A.weight"), product(normal({N, r}, 4), true, dw, false)), tolerance);
        EXPECT_LE(apart(grad_of(layer, "lora_B.weight"), product(dw, false, normal({r, C}, 3), true)), tolerance);
        EXPECT_FALSE(grad_of(layer, "weight").defined());
    }
}

TEST(Lora, OnlyItsMatricesAreTrained) {
    const Linear layer = adapted(DType::f32);
    std::vector<std::string> names;
    for (const Parameter& p : layer.parameters("q_proj.")) names.push_back(p.name);
    EXPECT_EQ(names, (std::vector<std::string>{"q_proj.weight", "q_proj.lora_A.weight", "q_proj.lora_B.weight"}));
    EXPECT_EQ(layer.trainable().size(), 2U);
    AdamW optimizer(layer.trainable(), {});
    EXPECT_EQ(optimizer.state().size(), 6U) << "weight, m and v of A and of B";
    Linear frozen = layer;
    frozen.freeze();
    EXPECT_TRUE(frozen.trainable().empty());
    EXPECT_EQ(layer.trainable().size(), 2U) << "a copy is frozen by itself";
}

TEST(Lora, DropsOnlyWhereRowsHaveAPlace) {
    const Linear layer = adapted(DType::f64, 0.5);
    const Variable x(normal({T, C}, 1));
    EXPECT_TRUE(same_bits(layer(x).value(), adapted(DType::f64)(x).value()));
    const DropoutAt dropout{3, ints({0, 1, 2, 3, 4, 5})};
    const Tensor kept = autograd::dropout(x, dropout.places, 0.5, dropout.seed, 9).value();
    const Tensor want = product(product(kept, false, normal({r, C}, 3), true), false, normal({N, r}, 4), true);
    tensor::axpby(want, 1.0, autograd::linear(x, layer.weight()).value(), 1.0 / scale);  // scaled twice above
    EXPECT_LE(apart(layer(x, dropout).value(), want), 1e-14);
}

}  // namespace
}  // namespace uipe::nn
