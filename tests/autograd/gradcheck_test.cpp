// A check that cannot fail shows nothing: wrong gradients must be caught, and by the element that is wrong.
#include "autograd/gradcheck.h"

#include <gtest/gtest.h>

#include "autograd/ops.h"
#include "tests/autograd/inputs.h"

namespace uipe::autograd {
namespace {

using test::normal;

/// x² with a gradient of `factor` x.
Variable square(const Variable& x, double factor) {
    const Tensor y = Tensor::empty(x.value().shape(), x.value().dtype());
    tensor::mul(y, x.value(), x.value());
    return record(y, {x}, [factor, v = x.value()](const Tensor& dy, std::span<Sink> in) {
        tensor::mul(in[0].grad, dy, v);
        tensor::axpby(in[0].grad, 0.0, dy, factor);
    });
}

TEST(GradCheck, PassesARightGradient) {
    const Variable x = Variable::leaf(normal({3, 4}, 1));
    const GradCheck check = gradcheck([&] { return square(x, 2.0); }, {x});
    EXPECT_LE(check.worst, 1e-11) << check.place;
}

TEST(GradCheck, CatchesAWrongGradient) {
    const Variable x = Variable::leaf(normal({3, 4}, 1));
    EXPECT_GT(gradcheck([&] { return square(x, 2.0001); }, {x}).worst, 1e-5);
    EXPECT_GT(gradcheck([&] { return square(x, -2.0); }, {x}).worst, 1.0);
}

TEST(GradCheck, CatchesOneWrongElementAndNamesIt) {
    const Variable a = Variable::leaf(normal({4}, 1));
    const Variable b = Variable::leaf(normal({5}, 2));
    const auto broken = [](const Variable& x) {
        return record(x.value().clone(), {x}, [](const Tensor& dy, std::span<Sink> in) {
            tensor::copy(in[0].grad, dy);
            in[0].grad.data<double>()[3] += 0.25;
        });
    };
    const GradCheck check = gradcheck([&] { return add(sum(scale(a, 2.0)), sum(broken(b))); }, {a, b});
    EXPECT_NEAR(check.worst, 0.25, 0.2);
    EXPECT_EQ(check.place.substr(0, 18), "input 1 element 3:") << check.place;
}

TEST(GradCheck, CatchesAMissingGradient) {
    const Variable x = Variable::leaf(normal({3}, 1));
    const Variable y = Variable::leaf(normal({3}, 2));
    EXPECT_GT(gradcheck([&] { return mul(x.detach(), y); }, {x, y}).worst, 0.1);
}

TEST(GradCheck, CountsNanAsWorst) {
    const Variable x = Variable::leaf(normal({3}, 1));
    const auto nan = [&] { return square(x, std::numeric_limits<double>::quiet_NaN()); };
    EXPECT_FALSE(gradcheck(nan, {x}).worst <= 1e9);
}

TEST(GradCheck, LeavesTheInputsAsTheyWere) {
    const Variable x = Variable::leaf(normal({3, 4}, 1));
    const Tensor before = x.value().clone();
    gradcheck([&] { return square(x, 2.0); }, {x});
    EXPECT_TRUE(test::same_bits(x.value(), before));
}

TEST(GradCheck, TriesAtMostTheLimitEvenlySpread) {
    const Variable x = Variable::leaf(normal({100}, 1));
    int calls = 0;
    const auto counted = [&] {
        ++calls;
        return square(x, 2.0);
    };
    gradcheck(counted, {x}, 10);
    EXPECT_EQ(calls, 1 + 4 * 10);
}

TEST(GradCheck, RefusesOtherTypesThanF64) {
    const Variable x = Variable::leaf(normal({3}, 1, 1.0, tensor::DType::f32));
    EXPECT_THROW(gradcheck([&] { return square(x, 2.0); }, {x}), Error);
}

}  // namespace
}  // namespace uipe::autograd
