// Define-by-run automatic differentiation. An op computes its value and records how to send a gradient back; backward()
// walks the records from last to first and drops each one as soon as it has been used.
//
//   Variable w = Variable::parameter(tensor);
//   Variable loss = sum(mul(linear(x, w), y));
//   backward(loss);            // w.grad() now holds the gradient, added to what was there before
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "tensor/tensor.h"

namespace uipe::autograd {

using tensor::Tensor;

/// Where the gradient of one input of an op goes.
struct Sink {
    Tensor grad;              // undefined when this input needs no gradient
    bool accumulate = false;  // true: add to `grad`; false: `grad` is uninitialised, overwrite it

    bool wanted() const { return grad.defined(); }
    /// The gradient, ready to be added to.
    const Tensor& zeroed();
    /// grad (+)= a * x.
    void add(const Tensor& x, double a = 1.0);
};

/// Sends the gradient `dy` of an op's output on to its inputs, in the order in which record() was given them.
using Backward = std::function<void(const Tensor& dy, std::span<Sink> inputs)>;

/// The place of a variable on the tape. It does not hold the variable's value: what a backward needs, it captures.
struct Node {
    tensor::Shape shape;
    tensor::DType grad_dtype;
    tensor::Device device;
    Tensor grad;
    bool leaf = true;
    std::uint64_t order = 0;
    std::vector<std::shared_ptr<Node>> inputs;
    Backward backward;
};

class Variable {
public:
    Variable() = default;
    /// A constant.
    explicit Variable(Tensor value) : value_(std::move(value)) {}
    /// A leaf whose gradient is kept, in the accumulator's type (f32 for bf16), and starts at zero.
    static Variable parameter(Tensor value);
    /// A leaf whose gradient is kept, in the value's own type.
    static Variable leaf(Tensor value);

    bool defined() const { return value_.defined(); }
    const Tensor& value() const { return value_; }
    bool requires_grad() const { return node_ != nullptr; }
    /// The gradient, undefined before the first backward().
    Tensor grad() const { return node_ ? node_->grad : Tensor(); }
    /// Sets a kept gradient to zero, in place.
    void zero_grad() const;
    /// The same value, off the tape.
    Variable detach() const { return Variable(value_); }
    const std::shared_ptr<Node>& node() const { return node_; }

private:
    friend Variable record(Tensor value, const std::vector<Variable>& inputs, Backward backward);
    Tensor value_;
    std::shared_ptr<Node> node_;
};

/// The output of an op: on the tape when recording is on and an input needs a gradient, else a constant.
Variable record(Tensor value, const std::vector<Variable>& inputs, Backward backward);

/// Sends `seed` (default: 1, for a loss of one element) back from `output`, adding to the gradient of every leaf.
void backward(const Variable& output, const Tensor& seed = {});

/// While one lives, ops on this thread are not recorded.
class NoGrad {
public:
    NoGrad();
    ~NoGrad();
    NoGrad(const NoGrad&) = delete;
    NoGrad& operator=(const NoGrad&) = delete;

private:
    bool before_;
};

bool recording();

}  // namespace uipe::autograd
