// The tape: what is recorded, in which order gradients come back, and what memory is held in the meantime.
#include "autograd/variable.h"

#include <gtest/gtest.h>

#include <future>

#include "autograd/gradcheck.h"
#include "autograd/ops.h"
#include "tensor/allocator.h"
#include "tests/autograd/inputs.h"

namespace uipe::autograd {
namespace {

using tensor::DType;
using test::megabyte;
using test::megabyte_of_f64;
using test::normal;
using test::same_bits;

Variable vector_leaf(const std::vector<double>& values) { return Variable::leaf(Tensor::from(values)); }

std::vector<double> grad_of(const Variable& x) { return test::doubles(x.grad()); }

TEST(Variable, ConstantsAreNotRecorded) {
    const Variable c(normal({3}, 1));
    EXPECT_FALSE(c.requires_grad());
    EXPECT_FALSE(mul(c, c).requires_grad());
    EXPECT_TRUE(mul(c, Variable::leaf(normal({3}, 2))).requires_grad());
    EXPECT_FALSE(c.grad().defined());
}

TEST(Variable, ParametersHoldGradientsInTheAccumulatorsType) {
    const auto type_of_gradient = [](const Variable& x) {
        backward(sum(scale(x, 2.0)));
        return x.grad().dtype();
    };
    EXPECT_EQ(type_of_gradient(Variable::parameter(normal({3}, 1, 1.0, DType::f64))), DType::f64);
    EXPECT_EQ(type_of_gradient(Variable::parameter(normal({3}, 1, 1.0, DType::f32))), DType::f32);
    EXPECT_EQ(type_of_gradient(Variable::parameter(normal({3}, 1, 1.0, DType::bf16))), DType::f32);
    EXPECT_EQ(type_of_gradient(Variable::leaf(normal({3}, 1, 1.0, DType::bf16))), DType::bf16);
}

TEST(Variable, AnInputUsedTwice) {
    const Variable x = vector_leaf({3.0, -5.0});
    backward(sum(mul(x, x)));
    EXPECT_EQ(grad_of(x), (std::vector<double>{6.0, -10.0}));
}

TEST(Variable, ADiamond) {
    // z = (2x)(x²) = 2x³; both arms meet again, and x² is used by two ops.
    const Variable x = vector_leaf({3.0, -1.0});
    const Variable square = mul(x, x);
    const Variable z = add(mul(scale(x, 2.0), square), square);
    EXPECT_EQ(test::doubles(z.value()), (std::vector<double>{63.0, -1.0}));
    backward(sum(z));
    EXPECT_EQ(grad_of(x), (std::vector<double>{60.0, 4.0}));  // 6x² + 2x
}

TEST(Variable, ALadderOfDiamondsRunsEachOpOnce) {
    // 2^60 paths from y to x: only a walk over nodes, not over paths, ends.
    const Variable x = vector_leaf({1.0});
    Variable y = x;
    for (int i = 0; i < 60; ++i) y = add(y, y);
    backward(y);
    EXPECT_EQ(grad_of(x).front(), std::pow(2.0, 60));
}

TEST(Variable, AnInputFarBelowAndNear) {
    const Variable x = vector_leaf({2.0});
    Variable y = x;
    for (int i = 0; i < 3; ++i) y = mul(y, x);  // x⁴
    backward(y);
    EXPECT_EQ(grad_of(x).front(), 32.0);
}

TEST(Variable, GradientsAddUpOverBackwards) {
    const Variable x = vector_leaf({3.0, 4.0});
    backward(sum(mul(x, x)));
    const Tensor held = x.grad();
    backward(sum(scale(x, 10.0)));
    EXPECT_EQ(grad_of(x), (std::vector<double>{16.0, 18.0}));
    EXPECT_EQ(held.raw(), x.grad().raw()) << "the second backward adds in place";
    x.clear_grad();
    EXPECT_FALSE(x.grad().defined());
    backward(sum(x));
    EXPECT_EQ(grad_of(x), (std::vector<double>{1.0, 1.0}));
}

TEST(Variable, BackwardOfALeafAddsToItsGradient) {
    const Variable x = vector_leaf({3.0});
    backward(scale(x, 2.0));
    backward(x);
    EXPECT_EQ(grad_of(x).front(), 3.0);
}

TEST(Variable, TheSeedWeighsTheOutput) {
    const Variable x = vector_leaf({1.0, 2.0, 3.0});
    backward(mul(x, x), Tensor::from(std::vector<double>{1.0, 10.0, 100.0}));
    EXPECT_EQ(grad_of(x), (std::vector<double>{2.0, 40.0, 600.0}));
}

TEST(Variable, DetachCutsTheTape) {
    const Variable x = vector_leaf({3.0});
    backward(mul(x.detach(), x));
    EXPECT_EQ(grad_of(x).front(), 3.0);
    EXPECT_FALSE(scale(x, 2.0).detach().requires_grad());
}

TEST(Variable, NoGradRecordsNothing) {
    const Variable x = vector_leaf({3.0});
    {
        const NoGrad outer;
        {
            const NoGrad inner;
            EXPECT_FALSE(recording());
        }
        EXPECT_FALSE(recording()) << "the inner guard must not end the outer one";
        EXPECT_FALSE(mul(x, x).requires_grad());
        EXPECT_TRUE(std::async(std::launch::async, [] { return recording(); }).get()) << "a guard is of one thread";
    }
    EXPECT_TRUE(recording());
    EXPECT_TRUE(mul(x, x).requires_grad());
}

TEST(Variable, NoGradEndsWithAnException) {
    EXPECT_THROW(
        {
            const NoGrad guard;
            throw Error("out");
        },
        Error);
    EXPECT_TRUE(recording());
}

TEST(Variable, Errors) {
    const Variable constant(normal({1}, 1));
    EXPECT_THROW(backward(constant), Error);
    const Variable x = Variable::leaf(normal({2, 3}, 1));
    EXPECT_THROW(backward(mul(x, x)), Error) << "six elements without a seed";
    EXPECT_THROW(backward(mul(x, x), normal({3, 2}, 2)), Error) << "a seed of another shape";
    EXPECT_THROW(backward(Variable()), Error);
}

TEST(Variable, ASpentTapeIsAnErrorNotAWrongGradient) {
    const Variable x = vector_leaf({3.0});
    const Variable shared = mul(x, x);
    const Variable y = scale(shared, 2.0);
    const Variable z = scale(shared, 3.0);
    backward(y);
    EXPECT_THROW(backward(y), Error) << "the same output twice";
    EXPECT_THROW(backward(z), Error) << "another output over a spent op";
}

// --- Memory. One unit is a megabyte; index tensors and control blocks are far below. -------------------------------

double units_in_use() { return static_cast<double>(tensor::memory_stats().in_use) / megabyte; }
double units_at_peak() { return static_cast<double>(tensor::memory_stats().peak) / megabyte; }

TEST(Memory, ValuesThatNoBackwardReadsAreFreed) {
    const Variable x = Variable::leaf(normal({megabyte_of_f64}, 1));
    const double before = units_in_use();
    tensor::reset_peak();
    Variable y = x;
    for (int i = 0; i < 40; ++i) y = add(scale(y, 0.5), scale(y, 0.5));
    EXPECT_LE(units_at_peak() - before, 5.0);  // y, two halves, their sum
    EXPECT_LE(units_in_use() - before, 1.1);   // y
    backward(sum(y));
    EXPECT_LE(units_at_peak() - before, 8.0);  // and a few gradients, not forty
    EXPECT_EQ(grad_of(x).front(), 1.0);
}

TEST(Memory, ValuesThatABackwardReadsAreHeldUntilThen) {
    const Variable x = Variable::leaf(normal({megabyte_of_f64}, 1));
    const double before = units_in_use();
    Variable y = x;
    for (int i = 0; i < 20; ++i) y = log_sigmoid(y);
    EXPECT_NEAR(units_in_use() - before, 20.0, 0.5);
    y = sum(y);
    EXPECT_NEAR(units_in_use() - before, 19.0, 0.5) << "sum() reads nothing, so the last value went";
    tensor::reset_peak();
    backward(y);
    EXPECT_LE(units_at_peak() - before, 22.5);  // 19 values and a gradient on either side of an op
    EXPECT_NEAR(units_in_use() - before, 1.0, 0.1) << "only the gradient of x is left";
}

/// What the tape of op(x, …) holds beside its output, in units; each x is an intermediate value of one unit.
double units_kept(const std::function<Variable(const std::vector<Variable>&)>& op, std::size_t inputs) {
    constexpr std::int64_t columns = 8;
    const tensor::Shape shape{megabyte_of_f64 / columns, columns};
    const Variable x = Variable::leaf(Tensor::zeros(shape, DType::f64));
    const double before = units_in_use();
    Variable y;
    {
        std::vector<Variable> values;
        for (std::size_t i = 0; i < inputs; ++i) values.push_back(scale(x, 1.0));
        y = op(values);
    }
    return units_in_use() - before - static_cast<double>(y.value().nbytes()) / megabyte;
}

TEST(Memory, AnOpKeepsOnlyWhatItsBackwardReads) {
    constexpr std::int32_t rows = megabyte_of_f64 / 8;
    const Tensor cu = test::packed({rows});
    const Tensor index = Tensor::from(std::vector<std::int32_t>(rows, 1));
    const Variable square = Variable::leaf(normal({8, 8}, 1));
    const Variable vector = Variable::leaf(normal({8}, 2));
    const Variable column = Variable::leaf(Tensor::zeros({rows}, DType::f64));
    using Inputs = std::vector<Variable>;
    const struct {
        const char* op;
        std::size_t inputs;
        std::function<Variable(const Inputs&)> run;
        double units;
    } cases[] = {
        {"add", 2, [](const Inputs& x) { return add(x[0], x[1]); }, 0.0},
        {"mul", 2, [](const Inputs& x) { return mul(x[0], x[1]); }, 2.0},
        {"scale", 1, [](const Inputs& x) { return scale(x[0], 2.0); }, 0.0},
        {"log_sigmoid", 1, [](const Inputs& x) { return log_sigmoid(x[0]); }, 1.0},
        {"sum", 1, [](const Inputs& x) { return sum(x[0]); }, 0.0},
        {"segment_sum", 0, [&](const Inputs&) { return segment_sum(scale(column, 1.0), cu); }, 0.0},
        {"linear", 1, [&](const Inputs& x) { return linear(x[0], square); }, 1.0},
        {"embedding", 0, [&](const Inputs&) { return embedding(square, index); }, 0.0},
        {"rmsnorm", 1, [&](const Inputs& x) { return rmsnorm(x[0], vector, 1e-5); }, 1.125},  // and rstd[T]
        {"swiglu", 2, [](const Inputs& x) { return swiglu(x[0], x[1]); }, 2.0},
        {"rope", 1, [&](const Inputs& x) { return rope(x[0], index, 4, 1e4); }, 0.0},
        {"token_logprob", 1, [&](const Inputs& x) { return token_logprob(x[0], square, index); },
         2.0},  // and dlogits[T,V]
    };
    for (const auto& c : cases) EXPECT_NEAR(units_kept(c.run, c.inputs), c.units, 0.01) << c.op;
}

TEST(Memory, AttentionKeepsItsOperandsAndOneNumberARowAndHead) {
    const Variable x = Variable::leaf(normal({512, 16}, 1));
    const Tensor cu = test::packed({256, 256});
    const auto bytes_in_use = [] { return static_cast<double>(tensor::memory_stats().in_use); };
    const double before = bytes_in_use();
    const Variable y = attention(scale(x, 1.0), scale(x, 1.0), scale(x, 1.0), cu, 4);
    const auto one = static_cast<double>(x.value().nbytes());
    EXPECT_NEAR(bytes_in_use() - before, one * (1 + 3 + 4.0 / 16.0), 0.01 * one);  // out; q, k, v; lse[T,H]
}

/// An op that passes its input on and notes, on the way back, what memory is in use.
Variable note_memory(const Variable& x, double& units) {
    return record(x.value(), {x}, [&units](const Tensor& dy, std::span<Sink> in) {
        units = units_in_use();
        in[0].add(dy);
    });
}

TEST(Memory, BackwardFreesAsItGoes) {
    const Variable x = Variable::leaf(normal({megabyte_of_f64}, 1));
    double late = 0.0;
    double early = 0.0;
    Variable y = note_memory(x, late);
    for (int i = 0; i < 20; ++i) y = log_sigmoid(y);
    y = sum(note_memory(y, early));
    backward(y);
    EXPECT_LE(late - early, -18.0);
}

TEST(Memory, DroppingTheOutputDropsTheTape) {
    const Variable x = Variable::leaf(normal({megabyte_of_f64}, 1));
    const double before = units_in_use();
    {
        Variable y = x;
        for (int i = 0; i < 5; ++i) y = log_sigmoid(y);
    }
    EXPECT_EQ(units_in_use(), before);
}

TEST(Memory, NoGradHoldsNothing) {
    const Variable x = Variable::leaf(normal({megabyte_of_f64}, 1));
    const double before = units_in_use();
    tensor::reset_peak();
    const NoGrad guard;
    Variable y = x;
    for (int i = 0; i < 20; ++i) y = log_sigmoid(y);
    EXPECT_LE(units_at_peak() - before, 2.5);
}

}  // namespace
}  // namespace uipe::autograd
