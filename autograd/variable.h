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

#include "tensor/allocator.h"

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
    tensor::MemoryClass memory = tensor::MemoryClass::activations;  // of the gradient
    Tensor grad;
    std::function<Tensor()> grad_home;  // of a leaf: gives the memory of its gradient
    bool leaf = true;
    std::uint64_t order = 0;
    std::vector<std::shared_ptr<Node>> inputs;
    Backward backward;
    std::function<void()> passing;  // of on_backward()
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

    bool defined() const { return value().defined(); }
    const Tensor& value() const { return parameter_ ? *parameter_ : value_; }
    bool requires_grad() const { return node_ != nullptr; }
    /// The gradient, undefined before the first backward().
    Tensor grad() const { return node_ ? node_->grad : Tensor(); }
    /// Lets go of the gradient: the next backward() starts from nothing.
    void clear_grad() const;
    /// The value for an op's backward pass to keep.
    Saved saved() const { return again_ ? *again_ : Saved(value()); }
    /// The same parameter, without a gradient.
    Variable frozen() const;
    /// The same value, off the tape.
    Variable detach() const { return Variable(value()); }
    const std::shared_ptr<Node>& node() const { return node_; }

    /// Of a parameter without a gradient: gives it, and all copies of this handle, another value of the same shape, or,
    /// as Tensor::without_storage(), none for as long as nobody reads it.
    void set_value(Tensor value) const;
    /// Of a parameter: its gradient as if a backward() had left it.
    void set_grad(Tensor grad) const;
    /// Of a parameter: where the next backward() that finds no gradient writes it, instead of into memory of its own.
    void set_grad_home(std::function<Tensor()> home) const;

private:
    friend Variable record(Tensor value, const std::vector<Variable>& inputs, Backward backward, Saved::Make again);
    friend Variable on_backward(const Variable& x, std::function<void()> f);
    Tensor value_;
    std::shared_ptr<Tensor> parameter_;  // the value of a parameter, shared by all copies of the handle
    std::shared_ptr<Node> node_;
    std::optional<Saved> again_;
};

/// The output of an op: on the tape when recording is on and an input needs a gradient, else a constant. `again`, when
/// given, makes the value anew, to the same bits, from what `backward` keeps: ops that read it then need not keep it.
/// Parameters must therefore keep their values from a forward pass to its backward pass.
Variable record(Tensor value, const std::vector<Variable>& inputs, Backward backward, Saved::Make again = {});

/// x itself; f is called when the backward pass comes by, before it goes on to what made x. Not called where x needs no
/// gradient.
Variable on_backward(const Variable& x, std::function<void()> f);

/// Sends `seed` (default: 1, for a loss of one element) back from `output`, adding to the gradient of every leaf.
void backward(const Variable& output, const Tensor& seed = {});
/// The same from an output whose value, and what could make it again, need not be kept meanwhile.
void backward(const std::shared_ptr<Node>& output, const Tensor& seed);

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

/// While one lives (with `on`), ops on this thread keep the values that they read, also those that could be made again.
class KeepValues {
public:
    explicit KeepValues(bool on);
    ~KeepValues();
    KeepValues(const KeepValues&) = delete;
    KeepValues& operator=(const KeepValues&) = delete;

private:
    bool before_;
};

}  // namespace uipe::autograd
