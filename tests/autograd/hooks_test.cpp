// Marks on the way back, homes of gradients, and values that are kept.
#include <gtest/gtest.h>

#include "autograd/ops.h"
#include "tensor/allocator.h"
#include "tests/autograd/inputs.h"

namespace uipe::autograd {
namespace {

using test::normal;

TEST(OnBackward, IsCalledOnceOnTheWayBackLastMarkFirst) {
    std::vector<int> called;
    const auto mark = [&](const Variable& x, int n) { return on_backward(x, [&called, n] { called.push_back(n); }); };
    const Variable x = Variable::leaf(normal({4}, 1));
    const Variable loss = sum(mark(log_sigmoid(mark(scale(x, 2.0), 1)), 2));
    EXPECT_TRUE(called.empty());
    backward(loss);
    EXPECT_EQ(called, (std::vector<int>{2, 1}));
    const Variable plain = Variable::leaf(normal({4}, 1));
    backward(sum(log_sigmoid(scale(plain, 2.0))));
    EXPECT_TRUE(test::same_bits(x.grad(), plain.grad()));
}

TEST(OnBackward, IsCalledAfterAllThatReadTheValue) {
    const Variable x = Variable::leaf(normal({4}, 1));
    const Variable w = Variable::leaf(normal({4}, 2));
    Tensor then;
    const Variable y = on_backward(scale(x, 2.0), [&] { then = w.grad().clone(); });
    backward(sum(add(mul(y, w), mul(y, w))));
    EXPECT_TRUE(test::same_bits(then, w.grad())) << "both products had been passed";
}

TEST(OnBackward, IsNotCalledWhereNothingGoesBack) {
    bool called = false;
    const Variable w = Variable::leaf(normal({4}, 2));
    backward(sum(mul(on_backward(Variable(normal({4}, 1)), [&] { called = true; }), w)));
    EXPECT_FALSE(called);
}

TEST(GradHome, IsWhereTheFirstGradientIsWrittenAndLaterOnesAdded) {
    const Variable w = Variable::parameter(normal({2, 3}, 1));
    const Tensor home = Tensor::full({2, 3}, tensor::DType::f64, 7.0);
    int asked = 0;
    w.set_grad_home([&] {
        ++asked;
        return home;
    });
    const Variable x = Variable(normal({5, 3}, 2));
    backward(sum(linear(x, w)));
    EXPECT_EQ(w.grad().raw(), home.raw());
    const Tensor once = w.grad().clone();
    backward(sum(linear(x, w)));
    EXPECT_EQ(asked, 1);
    tensor::axpby(once, 1.0, once.clone(), 1.0);
    EXPECT_LE(test::apart(w.grad(), once), 1e-15);  // a few sums of f64 in another order
    w.clear_grad();
    w.set_grad_home({});
    backward(sum(linear(x, w)));
    EXPECT_NE(w.grad().raw(), home.raw());
}

TEST(KeepValues, KeepsWhatWouldBeMadeAgainToTheSameBits) {
    const auto kept_and_gradient = [](bool on) {
        const Variable x = Variable::leaf(normal({64, 32}, 1));
        const Variable norm = Variable::parameter(normal({32}, 2));
        const Variable w = Variable::parameter(normal({16, 32}, 3));
        const std::size_t before = tensor::memory_stats().in_use;
        const KeepValues guard(on);
        const Variable loss = sum(linear(rmsnorm(x, norm, 1e-5), w));
        const std::size_t kept = tensor::memory_stats().in_use - before;
        backward(loss);
        return std::pair(kept, x.grad());
    };
    const auto [more, kept] = kept_and_gradient(true);
    const auto [less, again] = kept_and_gradient(false);
    EXPECT_GE(more, less + 64 * 32 * sizeof(double)) << "the norm's output";
    EXPECT_TRUE(test::same_bits(kept, again));
}

}  // namespace
}  // namespace uipe::autograd
