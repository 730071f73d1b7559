// checkpoint(): the same numbers, for less memory.
#include <gtest/gtest.h>

#include "autograd/gradcheck.h"
#include "autograd/ops.h"
#include "tensor/allocator.h"
#include "tests/autograd/inputs.h"

namespace uipe::autograd {
namespace {

using test::megabyte;
using test::megabyte_of_f64;
using test::normal;
using test::same_bits;

using Function = std::function<Variable(const Variable&)>;

/// A residual block over weights that it reads: x + swiglu(x A, x B) with a norm in front.
struct Block {
    Variable norm, gate, up;

    explicit Block(std::uint64_t stream)
        : norm(Variable::parameter(normal({8}, stream))),
          gate(Variable::parameter(normal({8, 8}, stream + 1, 0.5))),
          up(Variable::parameter(normal({8, 8}, stream + 2, 0.5))) {}

    Variable operator()(const Variable& x) const {
        const Variable n = rmsnorm(x, norm, 1e-5);
        return add(x, swiglu(linear(n, gate), linear(n, up)));
    }
};

std::vector<Block> three_blocks() { return {Block(10), Block(20), Block(30)}; }

std::vector<Variable> parameters_of(const std::vector<Block>& blocks) {
    std::vector<Variable> out;
    for (const Block& b : blocks) out.insert(out.end(), {b.norm, b.gate, b.up});
    return out;
}

enum class Mode { plain, each, nested };

Variable forward(const std::vector<Block>& blocks, const Variable& x, Mode mode) {
    const Function all = [&blocks, mode](const Variable& in) {
        Variable y = in;
        for (const Block& block : blocks) y = mode == Mode::plain ? block(y) : checkpoint(block, y);
        return y;
    };
    return mode == Mode::nested ? checkpoint(all, x) : all(x);
}

struct Outcome {
    Tensor value;
    std::vector<Tensor> grads;
};

Outcome outcome(Mode mode, bool x_is_leaf) {
    const auto blocks = three_blocks();
    const Tensor data = normal({5, 8}, 1);
    const Variable x = x_is_leaf ? Variable::leaf(data) : Variable(data);
    const Variable y = forward(blocks, x, mode);
    Outcome out{y.value(), {}};
    backward(y, normal({5, 8}, 2));
    for (const Variable& p : parameters_of(blocks)) out.grads.push_back(p.grad());
    if (x_is_leaf) out.grads.push_back(x.grad());
    return out;
}

TEST(Checkpoint, SameValueAndBitEqualGradients) {
    const test::Threads one(1);
    for (const bool x_is_leaf : {true, false}) {
        const Outcome plain = outcome(Mode::plain, x_is_leaf);
        for (const Mode mode : {Mode::each, Mode::nested}) {
            const Outcome again = outcome(mode, x_is_leaf);
            EXPECT_TRUE(same_bits(again.value, plain.value));
            for (std::size_t i = 0; i < plain.grads.size(); ++i)
                EXPECT_TRUE(same_bits(again.grads[i], plain.grads[i])) << "gradient " << i;
        }
    }
}

TEST(Checkpoint, GradCheck) {
    const auto blocks = three_blocks();
    const Variable x = Variable::leaf(normal({3, 8}, 1));
    std::vector<Variable> inputs = parameters_of(blocks);
    inputs.push_back(x);
    const GradCheck check = gradcheck([&] { return forward(blocks, x, Mode::nested); }, inputs);
    EXPECT_LE(check.worst, 1e-9) << check.place;
}

TEST(Checkpoint, GradientsAddUp) {
    const Block block(10);
    const Variable x = Variable::leaf(normal({5, 8}, 1));
    const auto run = [&] { backward(sum(checkpoint(block, x))); };
    run();
    const std::vector<Tensor> once = {x.grad().clone(), block.gate.grad().clone()};
    run();
    tensor::axpby(once[0], 1.0, once[0].clone(), 1.0);
    tensor::axpby(once[1], 1.0, once[1].clone(), 1.0);
    EXPECT_LE(test::apart(x.grad(), once[0]), 1e-14);
    EXPECT_LE(test::apart(block.gate.grad(), once[1]), 1e-14);
}

TEST(Checkpoint, TheInputAlsoUsedOutside) {
    const Block block(10);
    const Variable x = Variable::leaf(normal({3, 8}, 1));
    const auto f = [&] { return mul(checkpoint(block, x), x); };
    const GradCheck check = gradcheck(f, {x, block.gate, block.norm});
    EXPECT_LE(check.worst, 1e-9) << check.place;
}

/// As a residual block uses it: the gradient of x is there already, and what f adds to it is rounded once.
TEST(Checkpoint, BesideAResidualTheBitsAreTheSame) {
    for (const tensor::DType dtype : {tensor::DType::f32, tensor::DType::bf16}) {
        const auto weight = [&](tensor::Shape shape, std::uint64_t stream) {
            return Variable::parameter(normal(std::move(shape), stream, 1.0, dtype));
        };
        std::vector<std::vector<Tensor>> results;
        for (const bool recompute : {false, true}) {
            const Variable norm = weight({8}, 1);
            const Variable gate = weight({6, 8}, 2);
            const Variable up = weight({6, 8}, 3);
            const Variable down = weight({8, 6}, 4);
            const Variable x = Variable::leaf(normal({5, 8}, 5, 1.0, dtype));
            int runs = 0;
            const Function f = [&](const Variable& in) {
                ++runs;
                const Variable n = rmsnorm(in, norm, 1e-5);
                return swiglu(linear(n, gate), linear(n, up));
            };
            const Variable y = add(x, linear(recompute ? checkpoint(f, x) : f(x), down));
            backward(y, normal({5, 8}, 6, 1.0, dtype));
            EXPECT_EQ(runs, recompute ? 2 : 1) << "once again for its reader and for its own gradient";
            results.push_back({y.value(), x.grad(), norm.grad(), gate.grad(), up.grad(), down.grad()});
        }
        for (std::size_t i = 0; i < results[0].size(); ++i)
            EXPECT_TRUE(same_bits(results[0][i], results[1][i])) << name_of(dtype) << " " << i;
    }
}

TEST(Checkpoint, AFunctionThatDoesNotReadItsInput) {
    const Variable w = Variable::parameter(normal({4}, 1));
    const Variable x = Variable::leaf(normal({4}, 2));
    backward(sum(checkpoint([&](const Variable&) { return mul(w, w); }, x)));
    EXPECT_EQ(test::doubles(x.grad()), std::vector<double>(4, 0.0));
    EXPECT_LE(test::apart(w.grad(), scale(w, 2.0).value()), 1e-15);
}

TEST(Checkpoint, WithoutRecordingItIsTheFunction) {
    const Block block(10);
    const Variable x = Variable::leaf(normal({3, 8}, 1));
    const NoGrad guard;
    EXPECT_FALSE(checkpoint(block, x).requires_grad());
}

/// The peak, in values of a megabyte, of 8 stages of 8 ops that each keep their input, forward and backward.
double peak_of_stages(bool recompute) {
    const Function stage = [](const Variable& in) {
        Variable y = in;
        for (int i = 0; i < 8; ++i) y = log_sigmoid(y);
        return y;
    };
    const Variable x = Variable::leaf(normal({megabyte_of_f64}, 1));
    const std::size_t before = tensor::memory_stats().in_use;
    tensor::reset_peak();
    Variable y = x;
    for (int i = 0; i < 8; ++i) y = recompute ? checkpoint(stage, y) : stage(y);
    backward(sum(y));
    return static_cast<double>(tensor::memory_stats().peak - before) / megabyte;
}

TEST(Checkpoint, TakesLessMemory) {
    EXPECT_GE(peak_of_stages(false), 64.0);
    // 8 inputs, the 8 values of one stage, and the gradients around it.
    EXPECT_LE(peak_of_stages(true), 8.0 + 8.0 + 5.0);
}

TEST(Checkpoint, NestedTakesLessStill) {
    const Function leaf_stage = [](const Variable& in) {
        Variable y = in;
        for (int i = 0; i < 4; ++i) y = log_sigmoid(y);
        return y;
    };
    const auto times4 = [](const Function& f) -> Function {
        return [f](const Variable& in) {
            Variable y = in;
            for (int i = 0; i < 4; ++i) y = checkpoint(f, y);
            return y;
        };
    };
    const Variable x = Variable::leaf(normal({megabyte_of_f64}, 1));
    const std::size_t before = tensor::memory_stats().in_use;
    tensor::reset_peak();
    backward(sum(times4(times4(leaf_stage))(x)));  // 64 ops
    EXPECT_LE(static_cast<double>(tensor::memory_stats().peak - before) / megabyte, 4.0 + 4.0 + 4.0 + 7.0);
}

}  // namespace
}  // namespace uipe::autograd
