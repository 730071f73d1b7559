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
#include <optional>
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

/// What an op keeps of an input for its backward pass: the value, or, where that is cheap to make from tensors that are
/// kept anyway, the way to make it again. All who keep one value share it, and it is made once.
class Saved {
public:
    using Make = std::function<Tensor()>;
    Saved() = default;
    explicit Saved(Tensor value) : value_(std::move(value)) {}
    explicit Saved(Make make) : again_(std::make_shared<Again>(Again{std::move(make), {}})) {}
    Tensor get() const;

private:
    struct Again {
        Make make;
        Tensor value;
    };
    Tensor value_;
    std::shared_ptr<Again> again_;
};

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
    /// A leaf whose gradient is kept, in the accumulator's type (f32 for bf16).
    static Variable parameter(Tensor value);
    /// A leaf whose gradient is kept, in the value's own type.
    static Variable leaf(Tensor value);

    bool defined() const { return value_.defined(); }
    const Tensor& value() const { return value_; }
    bool requires_grad() const { return node_ != nullptr; }
    /// The gradient, undefined before the first backward().
    Tensor grad() const { return node_ ? node_->grad : Tensor(); }
    /// Lets go of the gradient: the next backward() starts from nothing.
    void clear_grad() const;
    /// The value for an op's backward pass to keep.
    Saved saved() const { return again_ ? *again_ : Saved(value_); }
    /// The same value, off the tape.
    Variable detach() const { return Variable(value_); }
    const std::shared_ptr<Node>& node() const { return node_; }

private:
    friend Variable record(Tensor value, const std::vector<Variable>& inputs, Backward backward, Saved::Make again);
    Tensor value_;
    std::shared_ptr<Node> node_;
    std::optional<Saved> again_;
};

/// The output of an op: on the tape when recording is on and an input needs a gradient, else a constant. `again`, when
/// given, makes the value anew, to the same bits, from what `backward` keeps: ops that read it then need not keep it.
/// Parameters must therefore keep their values from a forward pass to its backward pass.
Variable record(Tensor value, const std::vector<Variable>& inputs, Backward backward, Saved::Make again = {});

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
