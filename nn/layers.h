// The layers of a transformer block. Each is made of its weights, which it shares, and called on activations [T,C].
#pragma once

#include <functional>
#include <optional>

#include "autograd/ops.h"
#include "nn/lora.h"

namespace uipe::nn {

/// y[T,N] = x[T,C] weight[N,C]^T, without bias; and what an adapter adds, where there is one.
class Linear : public Module {
public:
    explicit Linear(Tensor weight) : weight_(Variable::parameter(std::move(weight))) {}
    Variable operator()(const Variable& x, const DropoutAt& dropout = {}) const {
        const Variable y = autograd::linear(x, weight_);
        return adapter_ ? autograd::add(y, (*adapter_)(x, dropout)) : y;
    }
    const Variable& weight() const { return weight_; }
    /// Takes an adapter, or none.
    void set_adapter(std::optional<Lora> adapter) { adapter_ = std::move(adapter); }
    /// Its own parameters first, then the adapter's.
    void collect(const std::string& prefix, Parameters& out) const override {
        out.push_back({prefix + "weight", weight_});
        if (adapter_) adapter_->collect(prefix, out);
    }
    void freeze() override {
        weight_ = weight_.frozen();
        if (adapter_) adapter_->freeze();
    }

private:
    Variable weight_;
    std::optional<Lora> adapter_;
};

/// What is done with each linear layer of a module, by its name: "q_proj", "gate_proj", ….
using EachLinear = std::function<void(const std::string& name, Linear& linear)>;

/// y[T,C] = weight[V,C] at tokens[T].
class Embedding : public Module {
public:
    explicit Embedding(Tensor weight) : weight_(Variable::parameter(std::move(weight))) {}
    Variable operator()(const Tensor& tokens) const { return autograd::embedding(weight_, tokens); }
    const Variable& weight() const { return weight_; }
    void collect(const std::string& prefix, Parameters& out) const override {
        out.push_back({prefix + "weight", weight_});
    }
    void freeze() override { weight_ = weight_.frozen(); }

private:
    Variable weight_;
};

/// y[T,C] = x / sqrt(mean(x²) + eps) * weight[C] (Zhang & Sennrich 2019).
class RmsNorm : public Module {
public:
    RmsNorm(Tensor weight, double eps) : weight_(Variable::parameter(std::move(weight))), eps_(eps) {}
    Variable operator()(const Variable& x) const { return autograd::rmsnorm(x, weight_, eps_); }
    /// {x + r, and that normalised}.
    std::pair<Variable, Variable> operator()(const Variable& x, const Variable& r) const {
        return autograd::add_rmsnorm(x, r, weight_, eps_);
    }
    void collect(const std::string& prefix, Parameters& out) const override {
        out.push_back({prefix + "weight", weight_});
    }
    void freeze() override { weight_ = weight_.frozen(); }

private:
    Variable weight_;
    double eps_;
};

/// down(silu(gate(x)) * up(x)) (Shazeer 2020).
class SwiGlu : public Module {
public:
    /// gate, up: [F,C]; down: [C,F].
    SwiGlu(Tensor gate, Tensor up, Tensor down) : gate_(std::move(gate)), up_(std::move(up)), down_(std::move(down)) {}
    Variable operator()(const Variable& x, const DropoutAt& dropout = {}) const {
        return down(inner(x, dropout), dropout);
    }
    /// Its two halves: [T,F] from x[T,C], and y[T,C] from that.
    Variable inner(const Variable& x, const DropoutAt& dropout = {}) const {
        return autograd::swiglu(gate_(x, dropout), up_(x, dropout));
    }
    Variable down(const Variable& inner, const DropoutAt& dropout = {}) const { return down_(inner, dropout); }
    void collect(const std::string& prefix, Parameters& out) const override {
        gate_.collect(prefix + "gate_proj.", out);
        up_.collect(prefix + "up_proj.", out);
        down_.collect(prefix + "down_proj.", out);
    }
    void each_linear(const EachLinear& f) {
        f("gate_proj", gate_);
        f("up_proj", up_);
        f("down_proj", down_);
    }
    void freeze() override {
        each_linear([](const std::string&, Linear& linear) { linear.freeze(); });
    }

private:
    Linear gate_, up_, down_;
};

}  // namespace uipe::nn
