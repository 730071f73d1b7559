#include "nn/optimizer.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "tensor/allocator.h"
#include "tensor/ops.h"

namespace uipe::nn {

namespace {

template <class Make>
Tensor made_as(tensor::MemoryClass c, const Make& make) {
    const tensor::MemoryScope scope(c);
    return make();
}

}  // namespace

AdamW::AdamW(Parameters parameters, const AdamWOptions& options) : options_(options) {
    for (Parameter& p : parameters) {
        const Tensor& value = p.variable.value();
        const tensor::DType dtype = tensor::accumulator_of(value.dtype());
        const auto zeros = [&] { return Tensor::zeros(value.shape(), dtype, value.device()); };
        slots_.push_back({.parameter = p,
                          .master = made_as(tensor::MemoryClass::masters, [&] { return value.to(dtype); }),
                          .m = made_as(tensor::MemoryClass::moments, zeros),
                          .v = made_as(tensor::MemoryClass::moments, zeros)});
    }
}

void AdamW::step(double lr, const Tensor& squares, double max_norm) {
    ++steps_;
    for (Slot& slot : slots_) {
        const Tensor grad = slot.parameter.variable.grad();
        if (!grad.defined()) continue;
        const bool decays = options_.decay_vectors || slot.master.rank() > 1;
        tensor::adamw(slot.parameter.variable.value(), slot.master, slot.m, slot.v, grad,
                      {.lr = lr,
                       .beta1 = options_.beta1,
                       .beta2 = options_.beta2,
                       .eps = options_.eps,
                       .weight_decay = decays ? options_.weight_decay : 0.0,
                       .step = steps_,
                       .squares = squares,
                       .max_norm = max_norm});
        slot.parameter.variable.clear_grad();
    }
}

std::map<std::string, Tensor> AdamW::masters() const {
    std::map<std::string, Tensor> out;
    for (const Slot& slot : slots_) out[slot.parameter.name] = slot.master;
    return out;
}

std::map<std::string, Tensor> AdamW::state() const {
    std::map<std::string, Tensor> out;
    for (const Slot& slot : slots_) {
        out["master." + slot.parameter.name] = slot.master;
        out["m." + slot.parameter.name] = slot.m;
        out["v." + slot.parameter.name] = slot.v;
    }
    return out;
}

void AdamW::load_state(const std::map<std::string, Tensor>& saved, std::int64_t steps) {
    const std::map<std::string, Tensor> own = state();
    for (const auto& [name, target] : own) {
        const auto found = saved.find(name);
        require_input(found != saved.end(), "checkpoint lacks ", name, "; it was made by another model");
        const Tensor& source = found->second;
        require_input(source.shape() == target.shape() && source.dtype() == target.dtype(), "checkpoint has ", name,
                      " of ", name_of(source.dtype()), tensor::to_string(source.shape()), ", the model needs ",
                      name_of(target.dtype()), tensor::to_string(target.shape()));
    }
    load_state([&saved](const std::string& name, const Tensor&) { return saved.at(name); }, steps);
}

void AdamW::load_state(const Read& read, std::int64_t steps) {
    for (const auto& [name, target] : state()) tensor::copy(target, read(name, target).to(target.device()));
    for (const Slot& slot : slots_) tensor::copy(slot.parameter.variable.value(), slot.master);
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
