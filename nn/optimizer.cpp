#include "nn/optimizer.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "tensor/allocator.h"
#include "tensor/base/checksum.h"
#include "tensor/master.h"

namespace uipe::nn {

namespace {

/// Of "NAME[begin:end]", or of "NAME": the whole parameter's name, and the first of its elements.
std::pair<std::string, std::int64_t> place_of(const std::string& name) {
    const std::size_t open = name.rfind('[');
    if (open == std::string::npos || name.back() != ']') return {name, 0};
    return {name.substr(0, open), std::stoll(name.substr(open + 1))};
}

}  // namespace

AdamW::AdamW(const Parameters& parameters, const AdamWOptions& options) : options_(options) {
    for (const Parameter& p : parameters) {
        const Tensor& value = p.variable.value();
        const tensor::DType dtype = tensor::accumulator_of(value.dtype());
        const bool halves = options.moments == tensor::DType::bf16;
        require_input(!halves || dtype == tensor::DType::f32, "moments of bf16 are for weights of f32 and bf16; ",
                      p.name, " is ", tensor::name_of(value.dtype()));
        const bool on_host = tensor::stands_for(value.device()).kind == tensor::Device::Kind::cpu;
        require_input(!options.offload || !on_host, "--offload optimizer is for --device cuda: with --device cpu the ",
                      "optimizer's state is in the host's memory already");
        const tensor::Device home = options.offload ? tensor::host_of(value.device()) : value.device();
        const auto zeros = [&](tensor::MemoryClass c, tensor::DType type) {
            const tensor::MemoryScope scope(c);
            return Tensor::zeros(value.shape(), type, home);
        };
        const auto moment = [&] { return zeros(tensor::MemoryClass::moments, halves ? options.moments : dtype); };
        const auto copy = [&] {
            const tensor::MemoryScope scope(tensor::MemoryClass::masters);
            return value.to(home);
        };
        const auto [whole, first] = place_of(p.name);
        const bool of_bf16 = value.dtype() == tensor::DType::bf16;
        slots_.push_back({.parameter = p,
                          .copy = options.offload ? copy() : Tensor(),
                          .rest = of_bf16 ? zeros(tensor::MemoryClass::masters, value.dtype()) : Tensor(),
                          .m = moment(),
                          .v = moment(),
                          .stream = checksum(whole.data(), whole.size()),
                          .first = first});
    }
    if (options.offload && !slots_.empty()) stages_ = {make_stage(), make_stage()};
}

AdamW::Stage AdamW::make_stage() const {
    std::size_t grad = 0;
    std::size_t weight = 0;
    for (const Slot& slot : slots_) {
        const Tensor& value = slot.parameter.variable.value();
        weight = std::max(weight, value.nbytes());
        grad = std::max(
            grad, static_cast<std::size_t>(value.numel()) * tensor::size_of(tensor::accumulator_of(value.dtype())));
    }
    const tensor::Device device = slots_.front().parameter.variable.value().device();
    return {{grad, device}, {weight, device}};
}

tensor::AdamWStep AdamW::step_of(const Slot& slot, double lr, const Tensor& squares, double max_norm) const {
    const bool decays = options_.decay_vectors || slot.m.rank() > 1;
    return {.lr = lr,
            .beta1 = options_.beta1,
            .beta2 = options_.beta2,
            .eps = options_.eps,
            .weight_decay = decays ? options_.weight_decay : 0.0,
            .step = steps_,
            .squares = squares,
            .max_norm = max_norm,
            .seed = options_.seed,
            .stream = slot.stream,
            .first = slot.first};
}

void AdamW::step(double lr, const Tensor& squares, double max_norm) {
    ++steps_;
    if (stages_) return step_on_host(lr, squares, max_norm);
    for (Slot& slot : slots_) {
        const Tensor grad = slot.parameter.variable.grad();
        if (!grad.defined()) continue;
        tensor::adamw(slot.weight(), slot.rest, slot.m, slot.v, grad, step_of(slot, lr, squares, max_norm));
        slot.parameter.variable.clear_grad();
    }
}

void AdamW::step_on_host(double lr, const Tensor& squares, double max_norm) {
    std::vector<const Slot*> due;
    for (const Slot& slot : slots_)
        if (slot.parameter.variable.grad().defined()) due.push_back(&slot);
    const auto fetch = [&](std::size_t i) {
        if (i < due.size()) (*stages_)[i % 2].grad.fetch(due[i]->parameter.variable.grad());
    };
    fetch(0);
    // The factor that clips comes of the norm, which is on the device: the host cannot begin before it has read it.
    const Tensor norm = squares.defined() ? squares.to(tensor::host_of(squares.device())) : squares;
    const bool changes = !norm.defined() || tensor::all_finite(norm);
    for (std::size_t i = 0; i < due.size(); ++i) {
        const Slot& slot = *due[i];
        auto& [grad, weight] = (*stages_)[i % 2];
        fetch(i + 1);
        const Tensor& value = slot.parameter.variable.value();
        const Tensor g = grad.fetched();
        slot.parameter.variable.clear_grad();
        if (!changes) continue;
        tensor::adamw(slot.copy, slot.rest, slot.m, slot.v, g, step_of(slot, lr, norm, max_norm));
        tensor::copy(weight.place(value.shape(), value.dtype()), slot.copy);
        weight.send(value);
    }
}

Tensor AdamW::master(const std::string& name) const {
    for (const Slot& slot : slots_)
        if (slot.parameter.name == name) return tensor::masters_of(slot.weight(), slot.rest);
    throw Error(cat("no trained parameter is called ", name));
}

std::map<std::string, Tensor> AdamW::state() const {
    std::map<std::string, Tensor> out;
    for (const Slot& slot : slots_) {
        out["weight." + slot.parameter.name] = slot.weight();
        if (slot.rest.defined()) out["rest." + slot.parameter.name] = slot.rest;
        out["m." + slot.parameter.name] = slot.m;
        out["v." + slot.parameter.name] = slot.v;
    }
    return out;
}

void AdamW::load_state(const std::map<std::string, Tensor>& saved, std::int64_t steps) {
    const std::map<std::string, Tensor> own = state();
    for (const auto& [name, target] : own) {
        const auto found = saved.find(name);
        require_input(found != saved.end(), "checkpoint lacks ", name,
                      "; it was made by another model, or by an earlier version");
        const Tensor& source = found->second;
        require_input(source.shape() == target.shape() && source.dtype() == target.dtype(), "checkpoint has ", name,
                      " of ", name_of(source.dtype()), tensor::to_string(source.shape()), ", the model needs ",
                      name_of(target.dtype()), tensor::to_string(target.shape()));
    }
    load_state([&saved](const std::string& name, const Tensor&) { return saved.at(name); }, steps);
}

void AdamW::load_state(const Read& read, std::int64_t steps) {
    for (const auto& [name, target] : state()) tensor::copy(target, read(name, target).to(target.device()));
    for (const Slot& slot : slots_) {
        const Tensor& value = slot.parameter.variable.value();
        if (slot.copy.defined()) tensor::copy(value, slot.copy.to(value.device()));
    }
    steps_ = steps;
}

Tensor grad_squares(const Parameters& parameters, tensor::Device device) {
    Tensor squares = Tensor::zeros({1}, tensor::DType::f64, device);
    for (const Parameter& p : parameters) {
        const Tensor grad = p.variable.grad();
        if (grad.defined()) tensor::add_squares(squares, grad);
    }
    return squares;
}

Schedule schedule_named(const std::string& name) {
    if (name == "constant") return Schedule::constant;
    if (name == "linear") return Schedule::linear;
    require_input(name == "cosine", "unknown schedule '", name, "'; known: constant, linear, cosine");
    return Schedule::cosine;
}

double schedule_factor(Schedule schedule, std::int64_t step, std::int64_t warmup, std::int64_t total) {
    if (step < warmup) return static_cast<double>(step) / static_cast<double>(warmup);
    if (schedule == Schedule::constant) return 1.0;
    const double left =
        static_cast<double>(total - step) / static_cast<double>(std::max<std::int64_t>(1, total - warmup));
    const double factor = std::clamp(left, 0.0, 1.0);
    return schedule == Schedule::linear ? factor : 0.5 * (1.0 - std::cos(std::numbers::pi * factor));
}

}  // namespace uipe::nn
