// AdamW with f32 masters, gradient clipping, and learning-rate schedules.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <optional>

#include "nn/module.h"
#include "tensor/ops.h"
#include "tensor/staging.h"

namespace uipe::nn {

struct AdamWOptions {
    double beta1 = 0.9;
    double beta2 = 0.999;
    double eps = 1e-8;
    double weight_decay = 0.01;
    bool decay_vectors = false;  // also decay norm weights; the recipes of TOFU (transformers' Trainer) do not
    tensor::DType moments = tensor::DType::f32;  // or bf16; of f64 parameters they are f64
    std::uint64_t seed = 0;                      // what moments of bf16 are rounded by
    bool offload = false;                        // of weights on a GPU, rests and moments are on the host
};

/// AdamW (Loshchilov & Hutter 2019). A bf16 parameter moves with an f32 master, because a step of 1e-5 is less than
/// half a bf16 ulp of most weights and would be lost; kept of it is what the parameter does not hold, its rest
/// (tensor/master.h). An f32 or f64 parameter is its own master. So a bf16 weight takes 2 bytes, its rest 2, and
/// gradient and moments 12 (8 with moments of bf16).
///
/// Moments of bf16 are rounded stochastically (tensor/rounding.h): the second one changes by a thousandth at most, less
/// than half of its last bit, and would stand still for ever. The bits depend on the seed, the step, a parameter's name
/// and an element's index in it, so neither on the device nor on how ranks cut the parameter.
///
/// Offloaded, rests and moments, and a copy of the weights, are on the host, which makes the step: a
/// parameter's gradient comes down, and its new weights go up, while it works on another's. The same bits.
class AdamW {
public:
    /// `parameters`: whole, or parts of some, "NAME[begin:end]" by their elements. InputError when they are f64 and
    /// moments bf16, or to be offloaded from the host.
    AdamW(const Parameters& parameters, const AdamWOptions& options);

    /// One step at rate `lr`; then lets go of the gradients. A parameter without one keeps its value and its moments.
    /// `squares`: grad_squares() of the parameters that are clipped together to `max_norm` (0: not clipped), as
    /// PyTorch's clip_grad_norm_; where it is not finite the step is counted but changes nothing. Waits for no device,
    /// unless offloaded: then for the gradients.
    void step(double lr, const Tensor& squares = {}, double max_norm = 0.0);
    std::int64_t steps() const { return steps_; }
    /// Goes on as if so many steps had been taken.
    void set_steps(std::int64_t steps) { steps_ = steps; }

    /// The master of the parameter called `name`: its weights to full precision. Of f32 and f64 it shares storage.
    Tensor master(const std::string& name) const;
    /// Everything a resumed run needs beside the step count: "weight.NAME", "rest.NAME" (of bf16), "m.NAME", "v.NAME",
    /// sharing storage.
    std::map<std::string, Tensor> state() const;
    /// Copies a saved state in, tensor by tensor as `read` gives them.
    using Read = std::function<Tensor(const std::string& name, const Tensor& like)>;
    void load_state(const Read& read, std::int64_t steps);
    /// The same from memory. Error when a tensor is missing or of another shape or type; then nothing has changed.
    void load_state(const std::map<std::string, Tensor>& state, std::int64_t steps);

private:
    struct Slot {
        Parameter parameter;
        Tensor copy;           // of the weights, on the host: when offloaded
        Tensor rest, m, v;     // rest: of bf16 weights
        std::uint64_t stream;  // of the whole parameter, by which its moments are rounded
        std::int64_t first;    // element of it
        /// The weights that are stepped.
        const Tensor& weight() const { return copy.defined() ? copy : parameter.variable.value(); }
    };
    /// One of two parameters on their way.
    struct Stage {
        tensor::Staging grad, weight;
    };
    Stage make_stage() const;
    tensor::AdamWStep step_of(const Slot& slot, double lr, const Tensor& squares, double max_norm) const;
    void step_on_host(double lr, const Tensor& squares, double max_norm);

    std::vector<Slot> slots_;
    std::optional<std::array<Stage, 2>> stages_;
    AdamWOptions options_;
    std::int64_t steps_ = 0;
};

/// The sum of squares of all gradients, f64[1] on `device`, which is the parameters', in a fixed order.
Tensor grad_squares(const Parameters& parameters, tensor::Device device);

enum class Schedule { constant, linear, cosine };
/// "constant", "linear" or "cosine"; InputError lists them.
Schedule schedule_named(const std::string& name);

/// The learning rate's factor at `step` (from 0) of `total`: step / warmup while that is below 1, then constant, or
/// falling in a line or half a cosine to 0 at `total`. These are the schedules of transformers, first step at rate 0
/// included, because TOFU's published runs used them.
double schedule_factor(Schedule schedule, std::int64_t step, std::int64_t warmup, std::int64_t total);

}  // namespace uipe::nn
