#include "autograd/variable.h"

#include <algorithm>
#include <atomic>
#include <unordered_set>

#include "tensor/ops.h"

namespace uipe::autograd {
namespace {

thread_local bool record_ops = true;
thread_local bool keep_values = false;
std::atomic<std::uint64_t> next_order{1};

std::shared_ptr<Node> make_leaf(const Tensor& value, tensor::DType grad_dtype) {
    auto node = std::make_shared<Node>();
    node->shape = value.shape();
    node->grad_dtype = grad_dtype;
    node->device = value.device();
    return node;
}

/// All nodes that `root` depends on, the latest first: an op comes before its inputs.
std::vector<std::shared_ptr<Node>> reachable(const std::shared_ptr<Node>& root) {
    std::vector<std::shared_ptr<Node>> nodes{root};
    std::unordered_set<const Node*> seen{root.get()};
    for (std::size_t i = 0; i < nodes.size(); ++i) {
        const auto inputs = nodes[i]->inputs;
        for (const auto& input : inputs)
            if (input && seen.insert(input.get()).second) nodes.push_back(input);
    }
    std::sort(nodes.begin(), nodes.end(), [](const auto& a, const auto& b) { return a->order > b->order; });
    return nodes;
}

Sink sink_of(Node* node) {
    if (node == nullptr) return {};
    const bool first = !node->grad.defined();
    const tensor::MemoryScope scope(node->memory);
    if (first)
        node->grad = node->grad_home ? node->grad_home() : Tensor::empty(node->shape, node->grad_dtype, node->device);
    return {node->grad, !first};
}

/// Hands the gradient on: as it is where it is the first.
void pass(Node& node) {
    node.passing();
    const auto& input = node.inputs[0];
    if (!input->grad.defined() && !input->leaf)
        input->grad = node.grad;
    else
        sink_of(input.get()).add(node.grad);
}

void run(Node& node) {
    if (node.passing) {
        pass(node);
        return;
    }
    std::vector<Sink> sinks;
    sinks.reserve(node.inputs.size());
    for (const auto& input : node.inputs) sinks.push_back(sink_of(input.get()));
    // An input that occurs twice has two sinks on one gradient. Both must add: a kernel writes them in any order.
    for (std::size_t i = 0; i < sinks.size(); ++i)
        for (std::size_t j = i + 1; j < sinks.size(); ++j)
            if (sinks[i].wanted() && node.inputs[i] == node.inputs[j]) sinks[i].zeroed();
    node.backward(node.grad, sinks);
}

}  // namespace

const Tensor& Sink::zeroed() {
    if (!accumulate) tensor::fill(grad, 0.0);
    accumulate = true;
    return grad;
}

void Sink::add(const Tensor& x, double a) { tensor::axpby(grad, a, x, accumulate ? 1.0 : 0.0); }

Variable Variable::parameter(Tensor value) {
    Variable v;
    v.node_ = make_leaf(value, tensor::accumulator_of(value.dtype()));
    v.node_->memory = tensor::MemoryClass::gradients;
    v.parameter_ = std::make_shared<Tensor>(std::move(value));
    return v;
}

Variable Variable::frozen() const {
    Variable v = *this;
    v.node_.reset();
    return v;
}

void Variable::set_value(Tensor value) const {
    require(parameter_ != nullptr, "only a parameter can be given another value");
    require(value.shape() == parameter_->shape(), "a parameter of shape ", tensor::to_string(parameter_->shape()),
            " given a value of shape ", tensor::to_string(value.shape()));
    *parameter_ = std::move(value);
    if (!node_ || node_->grad.defined()) return;
    node_->device = parameter_->device();
    node_->grad_dtype = tensor::accumulator_of(parameter_->dtype());
}

void Variable::set_grad(Tensor grad) const {
    require(node_ != nullptr && node_->leaf && grad.shape() == node_->shape && grad.dtype() == node_->grad_dtype,
            "set_grad() needs a parameter, and a gradient of its shape in the accumulator's type");
    node_->grad = std::move(grad);
}

void Variable::set_grad_home(std::function<Tensor()> home) const {
    require(node_ != nullptr && node_->leaf, "set_grad_home() needs a parameter");
    node_->grad_home = std::move(home);
}

Variable Variable::leaf(Tensor value) {
    Variable v(std::move(value));
    v.node_ = make_leaf(v.value_, v.value_.dtype());
    return v;
}

Tensor Saved::get() const {
    if (!again_) return value_;
    if (!again_->value.defined()) again_->value = again_->make();
    return again_->value;
}

void Variable::clear_grad() const {
    if (node_) node_->grad = Tensor();
}

Variable record(Tensor value, const std::vector<Variable>& inputs, Backward backward, Saved::Make again) {
    Variable out(std::move(value));
    const bool wanted = std::any_of(inputs.begin(), inputs.end(), [](const Variable& v) { return v.requires_grad(); });
    if (!record_ops || !wanted) return out;
    out.node_ = make_leaf(out.value_, out.value_.dtype());
    out.node_->leaf = false;
    out.node_->order = next_order++;
    out.node_->backward = std::move(backward);
    if (again && !keep_values) out.again_ = Saved(std::move(again));
    for (const Variable& input : inputs) out.node_->inputs.push_back(input.node());
    return out;
}

Variable on_backward(const Variable& x, std::function<void()> f) {
    Variable out = record(x.value(), {x}, [](const Tensor&, std::span<Sink>) {});
    if (!out.node_) return x;
    out.node_->passing = std::move(f);
    out.again_ = x.again_;
    return out;
}

void backward(const Variable& output, const Tensor& seed) {
    require(seed.defined() || output.value().numel() == 1, "backward() without a seed needs one element, got shape ",
            tensor::to_string(output.value().shape()));
    const Tensor& value = output.value();
    backward(output.node(), seed.defined() ? seed : Tensor::full(value.shape(), value.dtype(), 1.0, value.device()));
}

void backward(const std::shared_ptr<Node>& root, const Tensor& seed) {
    require(root != nullptr, "backward() of a value that depends on no parameter");
    require(seed.shape() == root->shape, "backward() of shape ", tensor::to_string(root->shape),
            " with a seed of shape ", tensor::to_string(seed.shape()));
    auto nodes = reachable(root);
    for (const auto& node : nodes)
        require(node->leaf || node->backward, "backward() twice through one op, which keeps nothing after the first; ",
                "compute the value again or add the losses before");
    sink_of(root.get()).add(seed);
    for (auto& node : nodes) {
        if (node->leaf) continue;
        if (node->grad.defined()) run(*node);
        node->backward = nullptr;
        node->passing = nullptr;
        node->inputs.clear();
        node->grad = Tensor();
        node.reset();
    }
}

NoGrad::NoGrad() : before_(record_ops) { record_ops = false; }
NoGrad::~NoGrad() { record_ops = before_; }

bool recording() { return record_ops; }

KeepValues::KeepValues(bool on) : before_(keep_values) { keep_values = keep_values || on; }
KeepValues::~KeepValues() { keep_values = before_; }

}  // namespace uipe::autograd
