// ZeRO in one process: what is there when, and the gradients of every stage. Several ranks: tests/ranks.
#include "nn/zero.h"

#include <gtest/gtest.h>

#include "autograd/ops.h"
#include "tests/autograd/inputs.h"
#include "tests/llama/support.h"

namespace uipe::nn {
namespace {

using autograd::backward;
using autograd::linear;
using tensor::DType;
using test::normal;

/// x -> x A^T -> … B^T -> … C^T, a unit each; beside B a vector that no pass reads.
struct Chain {
    Variable a = Variable::parameter(normal({6, 5}, 1));
    Variable b = Variable::parameter(normal({7, 6}, 2));
    Variable idle = Variable::parameter(normal({3}, 3));
    Variable c = Variable::parameter(normal({4, 7}, 4));

    std::vector<Parameters> units() const { return {{{"a", a}}, {{"b", b}, {"idle", idle}}, {{"c", c}}}; }
    /// Which units' weights are there.
    std::string there() const {
        std::string out;
        for (const Variable& w : {a, b, c}) out += w.defined() ? '+' : '-';
        return out;
    }

    /// The sum of the outputs, and, when asked, what is there in each unit.
    Variable pass(const Variable& x, UnitObserver* observer = nullptr, std::vector<std::string>* seen = nullptr) const {
        const auto begin = [&](std::size_t u) {
            if (observer != nullptr) observer->before_forward(u);
            if (seen != nullptr) seen->push_back(there());
        };
        const auto next = [&](const Variable& y, std::size_t u) {
            if (observer == nullptr) return y;
            observer->after_forward(u);
            observer->before_forward(u + 1);
            if (seen != nullptr) seen->push_back(there());
            return autograd::on_backward(y, [observer, u] {
                observer->after_backward(u + 1);
                if (u > 0) observer->before_backward(u);
            });
        };
        begin(0);
        Variable y = next(linear(x, a), 0);
        y = next(linear(y, b), 1);
        return autograd::sum(linear(y, c));
    }
};

/// A constant: the first unit's weights are not there on the way back, as those of an embedding need not be.
Variable input(std::uint64_t stream) { return Variable(normal({9, 5}, stream)); }

TEST(Zero, StagesAreThoseOfThePaper) {
    const auto comm = tensor::self_comm();
    for (const int stage : {-1, 4}) {
        const Chain chain;
        EXPECT_SAYS(llama::message_of([&] { Zero(chain.units(), *comm, stage, DType::f64, {}); }), "--zero");
    }
}

TEST(Zero, AtStage3AUnitIsThereWhileItIsPassed) {
    const auto comm = tensor::self_comm();
    const Chain chain;
    Zero zero(chain.units(), *comm, 3, DType::f64, {});
    EXPECT_EQ(chain.there(), "---");
    std::vector<std::string> seen;
    zero.begin_micro_batch(true);
    const Variable loss = chain.pass(input(9), &zero, &seen);
    EXPECT_EQ(seen, (std::vector<std::string>{"+--", "-+-", "--+"}));
    EXPECT_EQ(chain.there(), "--+") << "the last stays for its backward pass";
    backward(loss);
    zero.end_micro_batch();
    EXPECT_EQ(chain.there(), "---");
    seen.clear();
    zero.visit([&](std::size_t) { seen.push_back(chain.there()); });
    EXPECT_EQ(seen, (std::vector<std::string>{"+--", "-+-", "--+"}));
    zero.gather_all();
    EXPECT_EQ(chain.there(), "+++");
    zero.release_all();
    EXPECT_EQ(chain.there(), "---");
}

/// Two passes in a micro-batch, of which the second begins before the first one's backward pass.
double squares_of_two_passes(int stage) {
    const auto comm = tensor::self_comm();
    const Chain chain;
    std::optional<Zero> zero;
    if (stage >= 0) zero.emplace(chain.units(), *comm, stage, DType::f64, tensor::Device{});
    UnitObserver* observer = zero ? &*zero : nullptr;
    if (zero) {
        zero->begin_micro_batch(false);
        (void)chain.pass(input(7), observer);  // and never back
        zero->begin_micro_batch(true);
    }
    backward(autograd::add(chain.pass(input(8), observer), chain.pass(input(9), observer)));
    if (!zero) return grad_squares({{"a", chain.a}, {"b", chain.b}, {"c", chain.c}}, {}).item();
    zero->end_micro_batch();
    const double squares = zero->reduced_squares().item();
    if (stage > 0) {
        std::size_t idle = 0;
        for (const Parameter& p : zero->slices())
            if (p.name.starts_with("idle")) {
                ++idle;
                EXPECT_EQ(tensor::sum_of_squares(p.variable.grad()), 0.0) << "beside others it has a gradient of 0";
            }
        EXPECT_EQ(idle, 1u);
    }
    return squares;
}

TEST(Zero, GradientsOfSeveralPassesAreThoseWithoutIt) {
    const double want = squares_of_two_passes(-1);
    EXPECT_GT(want, 0.0);
    // Sums of squares in another order of units.
    for (int stage = 0; stage <= 3; ++stage) EXPECT_NEAR(squares_of_two_passes(stage), want, 1e-13 * want) << stage;
}

TEST(Zero, GivesBackWholeTensorsByName) {
    const auto comm = tensor::self_comm();
    for (const int stage : {1, 2, 3}) {
        const Chain chain;
        Zero zero(chain.units(), *comm, stage, DType::f64, {});
        std::map<std::string, Tensor> twice;
        for (const Parameter& p : zero.slices()) {
            twice[p.name] = p.variable.value().clone();
            tensor::axpby(twice[p.name], 1.0, p.variable.value(), 1.0);
        }
        const auto whole = zero.whole([&](const std::string& name) { return twice.at(name); });
        const Tensor want = normal({7, 6}, 2);
        tensor::axpby(want, 1.0, want.clone(), 1.0);
        EXPECT_TRUE(test::same_bits(whole("b"), want)) << stage;
        EXPECT_EQ(whole("idle").shape(), tensor::Shape{3});
        EXPECT_SAYS(llama::message_of<Error>([&] { whole("d"); }), "d");
    }
}

}  // namespace
}  // namespace uipe::nn
