// The layers of a transformer block. Each is made of its weights, which it shares, and called on activations [T,C].
#pragma once

#include "autograd/ops.h"
#include "nn/module.h"

namespace uipe::nn {

/// y[T,N] = x[T,C] weight[N,C]^T, without bias.
class Linear : public Module {
public:
    explicit Linear(Tensor weight) : weight_(Variable::parameter(std::move(weight))) {}
    Variable operator()(const Variable& x) const { return autograd::linear(x, weight_); }
    const Variable& weight() const { return weight_; }
    void collect(const std::string& prefix, Parameters& out) const override {
        out.push_back({prefix + "weight", weight_});
    }

private:
    Variable weight_;
};

/// y[T,C] = weight[V,C] at tokens[T].
class Embedding : public Module {
public:
    explicit Embedding(Tensor weight) : weight_(Variable::parameter(std::move(weight))) {}
    Variable operator()(const Tensor& tokens) const { return autograd::embedding(weight_, tokens); }
    const Variable& weight() const { return weight_; }
    void collect(const std::string& prefix, Parameters& out) const override {
        out.push_back({prefix + "weight", weight_});
    }

private:
    Variable weight_;
};

/// y[T,C] = x / sqrt(mean(x²) + eps) * weight[C] (Zhang & Sennrich 2019).
class RmsNorm : public Module {
public:
    RmsNorm(Tensor weight, double eps) : weight_(Variable::parameter(std::move(weight))), eps_(eps) {}
    Variable operator()(const Variable& x) const { return autograd::rmsnorm(x, weight_, eps_); }
    void collect(const std::string& prefix, Parameters& out) const override {
        out.push_back({prefix + "weight", weight_});
    }

private:
    Variable weight_;
    double eps_;
};

/// down(silu(gate(x)) * up(x)) (Shazeer 2020).
class SwiGlu : public Module {
public:
    /// gate, up: [F,C]; down: [C,F].
    SwiGlu(Tensor gate, Tensor up, Tensor down) : gate_(std::move(gate)), up_(std::move(up)), down_(std::move(down)) {}
    Variable operator()(const Variable& x) const { return down_(autograd::swiglu(gate_(x), up_(x))); }
    void collect(const std::string& prefix, Parameters& out) const override {
        gate_.collect(prefix + "gate_proj.", out);
        up_.collect(prefix + "up_proj.", out);
        down_.collect(prefix + "down_proj.", out);
    }

private:
    Linear gate_, up_, down_;
};

}  // namespace uipe::nn
