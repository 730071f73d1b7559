// Every op of autograd/ops.h: its gradient in f64 against central differences, with respect to every input, alone and
// together with the others, written over and added to; in f32 and bf16 against f64.
#include "autograd/ops.h"

#include <gtest/gtest.h>

#include "autograd/gradcheck.h"
#include "tensor/allocator.h"
#include "tests/autograd/inputs.h"

namespace uipe::autograd {
namespace {

using tensor::DType;
using test::apart;
using test::ints;
using test::normal;
using test::packed;
using test::same_bits;

using Inputs = std::vector<Variable>;
using Op = std::function<Variable(const Inputs&)>;

Inputs leaves_of(const std::vector<Tensor>& values) {
    Inputs inputs;
    for (const Tensor& v : values) inputs.push_back(Variable::leaf(v));
    return inputs;
}

Tensor seed_for(const Variable& y) { return normal(y.value().shape(), 99, 1.0, y.value().dtype()); }

/// The gradients that a second backward adds to are doubled.
void expect_accumulation(const Op& op, const Inputs& inputs) {
    for (const Variable& x : inputs) x.clear_grad();
    const Tensor seed = seed_for(op(inputs));
    backward(op(inputs), seed);
    std::vector<Tensor> once;
    for (const Variable& x : inputs) once.push_back(x.grad().clone());
    backward(op(inputs), seed);
    for (std::size_t i = 0; i < inputs.size(); ++i) {
        tensor::axpby(once[i], 1.0, once[i].clone(), 1.0);
        EXPECT_LE(apart(inputs[i].grad(), once[i]), 1e-14) << "input " << i;
    }
}

/// With one leaf and the other inputs constant, the gradient has the same bits as with all of them leaves.
void expect_each_alone(const Op& op, const std::vector<Tensor>& values) {
    const Inputs together = leaves_of(values);
    const Variable y = op(together);
    const Tensor seed = seed_for(y);
    backward(y, seed);
    for (std::size_t i = 0; i < values.size(); ++i) {
        Inputs alone;
        for (std::size_t j = 0; j < values.size(); ++j)
            alone.push_back(j == i ? Variable::leaf(values[j]) : Variable(values[j]));
        backward(op(alone), seed);
        EXPECT_TRUE(same_bits(alone[i].grad(), together[i].grad())) << "input " << i;
    }
}

/// In `dtype` the gradients are those of f64 at the rounded inputs, up to `tolerance` of the largest. Parameters, as
/// nn holds them, receive theirs in f32.
void expect_near_f64(const Op& op, const std::vector<Tensor>& values, DType dtype, double tolerance) {
    std::vector<Tensor> rounded;
    Inputs narrow;
    for (const Tensor& v : values) {
        rounded.push_back(v.to(dtype));
        narrow.push_back(Variable::leaf(rounded.back()));
        rounded.back() = rounded.back().to(DType::f64);
    }
    const Inputs wide = leaves_of(rounded);
    const Variable y = op(narrow);
    const Tensor seed = seed_for(y);
    backward(y, seed);
    backward(op(wide), seed.to(DType::f64));
    for (std::size_t i = 0; i < values.size(); ++i)
        EXPECT_LE(apart(narrow[i].grad(), wide[i].grad()), tolerance) << "input " << i << " in " << name_of(dtype);
}

void expect_gradients(const std::string& what, const Op& op, const std::vector<Tensor>& values,
                      std::int64_t tried = 200) {
    const test::Threads one(1);
    SCOPED_TRACE(what);
    tensor::set_poison(true);  // what a backward forgets to write is NaN
    const Inputs inputs = leaves_of(values);
    const GradCheck check = gradcheck([&] { return op(inputs); }, inputs, tried);
    EXPECT_LE(check.worst, 1e-9) << check.place;
    expect_accumulation(op, inputs);
    expect_each_alone(op, values);
    // Sums here have fewer than 500 terms of order 1, and errors add up as their root: 25 eps of 6e-8.
    expect_near_f64(op, values, DType::f32, 2e-6);
    tensor::set_poison(false);
}

const std::vector<tensor::Shape> shapes = {{1}, {7}, {1, 1}, {3, 5}, {37, 9}};

TEST(Ops, ElementByElement) {
    for (const tensor::Shape& s : shapes) {
        const std::string at = tensor::to_string(s);
        const std::vector<Tensor> one = {normal(s, 1)};
        const std::vector<Tensor> two = {normal(s, 1), normal(s, 2)};
        expect_gradients(
            "add " + at, [](const Inputs& x) { return add(x[0], x[1]); }, two);
        expect_gradients(
            "mul " + at, [](const Inputs& x) { return mul(x[0], x[1]); }, two);
        expect_gradients(
            "scale " + at, [](const Inputs& x) { return scale(x[0], -2.5); }, one);
        expect_gradients(
            "log_sigmoid " + at, [](const Inputs& x) { return log_sigmoid(x[0]); }, one);
        expect_gradients(
            "sum " + at, [](const Inputs& x) { return sum(x[0]); }, one);
    }
}

TEST(Ops, LogSigmoidFarOut) {
    const Variable x = Variable::leaf(Tensor::from(std::vector<double>{-800.0, -40.0, 40.0, 800.0}));
    backward(sum(log_sigmoid(x)));
    const std::vector<double> dx = x.grad().to_vector<double>();
    EXPECT_EQ(dx[0], 1.0);
    EXPECT_NEAR(dx[1], 1.0, 1e-15);
    EXPECT_NEAR(dx[2], 4.248354255291589e-18, 1e-30);  // e^-40
    EXPECT_NEAR(dx[3], 0.0, 1e-300);
}

TEST(Ops, SegmentSum) {
    for (const Tensor& cu : {packed({1}), packed({5}), packed({1, 4, 2}), packed({0, 3, 0, 0, 2, 0})}) {
        const std::int64_t T = cu.data<std::int32_t>()[cu.numel() - 1];
        expect_gradients(cat("T ", T), [&](const Inputs& x) { return segment_sum(x[0], cu); }, {normal({T}, 1)});
    }
}

TEST(Ops, Rows) {
    const std::vector<Tensor> one = {normal({7, 5}, 1)};
    for (const auto& [begin, end] :
         {std::pair{0, 7}, std::pair{0, 3}, std::pair{3, 7}, std::pair{2, 5}, std::pair{4, 4}})
        expect_gradients(
            cat(begin, " to ", end), [b = begin, e = end](const Inputs& x) { return rows(x[0], b, e); }, one);
    expect_gradients(
        "parts that overlap", [](const Inputs& x) { return mul(rows(x[0], 1, 5), rows(x[0], 3, 7)); }, one);
    const Variable x = Variable::leaf(one[0]);
    EXPECT_EQ(rows(x, 2, 5).value().raw(), x.value().rows(2, 5).raw());
}

TEST(Ops, Linear) {
    for (const auto& [T, C, N] : {std::array{1, 1, 1}, std::array{1, 7, 3}, std::array{5, 3, 1}, std::array{33, 17, 9}})
        expect_gradients(cat(T, " x ", C, " to ", N), [](const Inputs& x) { return linear(x[0], x[1]); },
                         {normal({T, C}, 1), normal({N, C}, 2)});
}

TEST(Ops, Embedding) {
    for (const Tensor& tokens : {ints({2}), ints({0, 4, 4, 1, 4}), ints({3, 3, 3})})
        expect_gradients(cat(tokens.numel(), " tokens"), [&](const Inputs& x) { return embedding(x[0], tokens); },
                         {normal({5, 3}, 1)});
}

TEST(Ops, RmsNorm) {
    for (const auto& [T, C] : {std::array{1, 1}, std::array{1, 9}, std::array{6, 5}, std::array{33, 18}})
        for (const double eps : {1e-6, 0.3})
            expect_gradients(cat(T, " x ", C, ", eps ", eps),
                             [eps = eps](const Inputs& x) { return rmsnorm(x[0], x[1], eps); },
                             {normal({T, C}, 1), normal({C}, 2)});
}

TEST(Ops, AddRmsNorm) {
    for (const auto& [T, C] : {std::array{1, 1}, std::array{1, 9}, std::array{6, 5}, std::array{33, 18}}) {
        const std::vector<Tensor> values = {normal({T, C}, 1), normal({T, C}, 2), normal({C}, 3)};
        expect_gradients(
            cat("both of ", T, " x ", C),
            [](const Inputs& x) {
                const auto [h, y] = add_rmsnorm(x[0], x[1], x[2], 1e-5);
                return add(mul(h, h), y);
            },
            values);
        expect_gradients(
            cat("the norm of ", T, " x ", C),
            [](const Inputs& x) { return add_rmsnorm(x[0], x[1], x[2], 1e-5).second; }, values);
    }
}

/// Values and gradients, to the bit, in every type: the residual's gradient is there first, and the norm's added to it.
TEST(Ops, AddRmsNormIsAdditionAndRmsNorm) {
    for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
        std::vector<std::vector<Tensor>> results;
        for (const bool fused : {true, false}) {
            const Inputs in = {Variable::leaf(normal({65, 33}, 1, 1.0, dtype)),
                               Variable::leaf(normal({65, 33}, 2, 1.0, dtype)),
                               Variable::parameter(normal({33}, 3, 1.0, dtype))};
            const Variable sum = fused ? Variable() : add(in[0], in[1]);
            const auto [h, y] =
                fused ? add_rmsnorm(in[0], in[1], in[2], 1e-5) : std::pair{sum, rmsnorm(sum, in[2], 1e-5)};
            const Variable out = add(h, mul(y, y));
            backward(out, seed_for(out));
            results.push_back({out.value(), in[0].grad(), in[1].grad(), in[2].grad()});
        }
        for (std::size_t i = 0; i < results[0].size(); ++i)
            EXPECT_TRUE(same_bits(results[0][i], results[1][i])) << name_of(dtype) << " " << i;
    }
}

TEST(Ops, SwiGlu) {
    for (const tensor::Shape& s : {tensor::Shape{1, 1}, tensor::Shape{1, 19}, tensor::Shape{7, 13}})
        expect_gradients(tensor::to_string(s), [](const Inputs& x) { return swiglu(x[0], x[1]); },
                         {normal(s, 1, 3.0), normal(s, 2)});
}

TEST(Ops, Rope) {
    for (const std::int64_t D : {2, 6, 8})
        for (const double theta : {1e4, 5e5})
            expect_gradients(cat("D ", D, ", theta ", theta),
                             [=](const Inputs& x) {
                                 return rope(x[0], ints({0, 1, 2, 0, 511}), D, theta);
                             },
                             {normal({5, 3 * D}, 1)});
    expect_gradients("one row", [](const Inputs& x) { return rope(x[0], ints({5}), 4, 1e4); }, {normal({1, 4}, 1)});
}

TEST(Ops, Dropout) {
    const Tensor places = ints({9, 4, 5});
    for (const double p : {0.3, 0.8})
        expect_gradients(cat("p ", p), [&](const Inputs& x) { return dropout(x[0], places, p, 7, 2); },
                         {normal({3, 70}, 1)});
    const Variable x = Variable::leaf(normal({3, 70}, 1));
    EXPECT_EQ(dropout(x, places, 0.0, 7, 2).node(), x.node()) << "no op at all";
}

TEST(Ops, WhatDropoutLeavesIsMadeAgainNotKept) {
    const Variable x = Variable::leaf(normal({3, 70}, 1));
    const Variable y = dropout(x, ints({9, 4, 5}), 0.3, 7, 2);
    EXPECT_NE(y.saved().get().raw(), y.value().raw());
    EXPECT_TRUE(same_bits(y.saved().get(), y.value()));
}

/// A product with a constant keeps the constant alone.
TEST(Ops, NothingIsKeptForAConstant) {
    const Variable w(normal({40, 50}, 2));
    for (const Op& op :
         {Op([&](const Inputs& x) { return mul(x[0], w); }), Op([&](const Inputs& x) { return linear(x[0], w); })}) {
        const std::size_t before = tensor::memory_stats().in_use;
        Variable y;
        {
            const Inputs x = {scale(Variable::leaf(normal({40, 50}, 1)), 2.0)};
            y = op(x);
        }
        // The leaf and what scale() made of it are gone; only the result is left. (The allocator rounds sizes up.)
        EXPECT_LT(tensor::memory_stats().in_use, before + y.value().nbytes() + w.value().nbytes() / 2);
    }
}

struct Heads {
    std::int64_t H, K, D;
};

TEST(Ops, Attention) {
    for (const Heads& h : {Heads{1, 1, 2}, Heads{4, 2, 6}, Heads{3, 1, 5}, Heads{3, 3, 4}, Heads{8, 2, 20}})
        for (const Tensor& cu : {packed({1}), packed({6}), packed({1, 5, 2}), packed({3, 0, 1}), packed({67, 2})}) {
            const std::int64_t T = cu.data<std::int32_t>()[cu.numel() - 1];
            expect_gradients(
                cat("H ", h.H, " K ", h.K, " D ", h.D, " T ", T, " B ", cu.numel() - 1),
                [&](const Inputs& x) { return attention(x[0], x[1], x[2], cu, h.D); },
                {normal({T, h.H * h.D}, 1), normal({T, h.K * h.D}, 2), normal({T, h.K * h.D}, 3)}, 40);
        }
}

TEST(Ops, AttentionAcrossTiles) {
    const Tensor cu = packed({131, 1, 64, 65});
    expect_gradients(
        "lengths 131, 1, 64, 65", [&](const Inputs& x) { return attention(x[0], x[1], x[2], cu, 4); },
        {normal({261, 8}, 1), normal({261, 4}, 2), normal({261, 4}, 3)}, 50);
}

TEST(Ops, TokenLogprob) {
    const std::vector<Tensor> some_targets = {ints({0}), ints({-1}), ints({3, -1, 3, 6, -1}), ints({-1, -1, -1}),
                                              ints({6, 6, 6, 6})};
    for (const Tensor& targets : some_targets)
        for (const std::int64_t C : {1, 5})
            expect_gradients(cat("T ", targets.numel(), " C ", C),
                             [&](const Inputs& x) { return token_logprob(x[0], x[1], targets); },
                             {normal({targets.numel(), C}, 1), normal({7, C}, 2)});
}

TEST(Ops, TokenKl) {
    const Tensor hidden_ref = normal({4, 3}, 3);  // a reference of another width
    const Tensor w_ref = normal({7, 3}, 4);
    for (const Tensor& mask : {Tensor(), ints({1, 0, 1, 0}), ints({0, 0, 0, 0}), ints({5, 1, 1, 1})})
        expect_gradients(
            mask.defined() ? cat("mask ", mask.data<std::int32_t>()[0], mask.data<std::int32_t>()[1]) : "no mask",
            [&](const Inputs& x) {
                const DType dtype = x[0].value().dtype();
                return token_kl(x[0], x[1], hidden_ref.to(dtype), w_ref.to(dtype), mask);
            },
            {normal({4, 5}, 1), normal({7, 5}, 2)});
}

TEST(Ops, TokenCrossEntropy) {
    const Tensor hidden_ref = normal({4, 3}, 3);  // a reference of another width
    const Tensor w_ref = normal({7, 3}, 4);
    for (const double lowered : {0.0, 4.0, std::numeric_limits<double>::infinity()})
        for (const Tensor& targets : {ints({2, 6, 0, 3}), ints({-1, 5, -1, 5}), ints({-1, -1, -1, -1})})
            expect_gradients(cat("lowered ", lowered, " target ", targets.data<std::int32_t>()[0]),
                             [&](const Inputs& x) {
                                 const DType dtype = x[0].value().dtype();
                                 return token_cross_entropy(x[0], x[1], hidden_ref.to(dtype), w_ref.to(dtype), targets,
                                                            lowered);
                             },
                             {normal({4, 5}, 1), normal({7, 5}, 2)});
}

TEST(Ops, SquaredDistance) {
    for (const auto& [T, C] : {std::pair<std::int64_t, std::int64_t>{1, 1}, {5, 3}, {4, 33}})
        for (const std::int64_t rows : {std::int64_t{1}, T}) {
            const Tensor y = normal({rows, C}, 9);
            expect_gradients(cat(T, "x", C, " from ", rows),
                             [&](const Inputs& x) { return squared_distance(x[0], y.to(x[0].value().dtype())); },
                             {normal({T, C}, 1)});
        }
}

TEST(Ops, TokenKlOfEqualModelsIsAMinimum) {
    const Tensor h = normal({3, 4}, 1);
    const Tensor w = normal({9, 4}, 2);
    const Inputs x = leaves_of({h, w});
    const Variable kl = sum(token_kl(x[0], x[1], h, w));
    EXPECT_NEAR(kl.value().item(), 0.0, 1e-14);
    backward(kl);
    EXPECT_LE(apart(x[0].grad(), Tensor::zeros({3, 4}, DType::f64)), 1e-14);
    EXPECT_LE(apart(x[1].grad(), Tensor::zeros({9, 4}, DType::f64)), 1e-14);
}

/// One variable in two or three places of one op: its gradient is the sum over the places.
TEST(Ops, OneInputInSeveralPlaces) {
    const Tensor square = normal({6, 6}, 1);
    const Tensor cu = packed({4, 2});
    const Tensor targets = ints({1, -1, 0, 5, 5, 2});
    expect_gradients("add", [](const Inputs& x) { return add(x[0], x[0]); }, {square});
    expect_gradients("mul", [](const Inputs& x) { return mul(x[0], x[0]); }, {square});
    expect_gradients("linear", [](const Inputs& x) { return linear(x[0], x[0]); }, {square});
    expect_gradients("swiglu", [](const Inputs& x) { return swiglu(x[0], x[0]); }, {normal({3, 67}, 1)});
    expect_gradients("attention", [&](const Inputs& x) { return attention(x[0], x[0], x[0], cu, 3); }, {square});
    expect_gradients("attention k = v", [&](const Inputs& x) { return attention(x[0], x[1], x[1], cu, 3); },
                     {square, normal({6, 3}, 2)});
    expect_gradients("token_logprob", [&](const Inputs& x) { return token_logprob(x[0], x[0], targets); }, {square});
}

/// bf16 parameters under ops with f32 sums: their gradients are f32, and near those of f64.
TEST(Ops, ParametersInBf16) {
    const Tensor tokens = ints({0, 4, 4, 1, 4});
    const Tensor targets = ints({3, -1, 3, 6, 0});
    const Op model = [&](const Inputs& p) {
        return token_logprob(rmsnorm(linear(embedding(p[0], tokens), p[1]), p[2], 1e-5), p[3], targets);
    };
    Inputs narrow;
    Inputs wide;
    const std::vector<Tensor> values = {normal({5, 8}, 1), normal({6, 8}, 2), normal({6}, 3), normal({7, 6}, 4)};
    for (const Tensor& v : values) {
        narrow.push_back(Variable::parameter(v.to(DType::bf16)));
        wide.push_back(Variable::parameter(narrow.back().value().to(DType::f64)));
    }
    backward(sum(model(narrow)));
    backward(sum(model(wide)));
    for (std::size_t i = 0; i < narrow.size(); ++i) {
        EXPECT_EQ(narrow[i].grad().dtype(), DType::f32);
        // Activations and their gradients are rounded to bf16 (eps 2^-8) some four times on the way.
        EXPECT_LE(apart(narrow[i].grad(), wide[i].grad()), 4.0 / 256.0) << "parameter " << i;
    }
}

}  // namespace
}  // namespace uipe::autograd
