// What a run will need before it begins: its memory and its work. The plan of a run is the run itself, a few steps of
// it, on a meta device: the same model, the same loop, the same ops, without memory and arithmetic.
#pragma once

#include <optional>

#include "tensor/allocator.h"
#include "tensor/comm/comm.h"
#include "tensor/profile.h"
#include "unlearn/trainer.h"

namespace uipe::unlearn {

struct PlanRequest {
    llama::Config config;
    const Objective* objective = &fine_tuning();
    tensor::DType dtype = tensor::DType::f32;
    tensor::Device device;      // which need not be here
    bool maps_weights = false;  // weights that are not trained stay in their files
    llama::Recompute recompute = llama::Recompute::norm;
    llama::LoraConfig lora;  // rank 0: all weights are trained
    bool may_adapt = true;   // an adapter can be trained instead
    int ranks = 1;
    int zero = 0;
    bool fixed_order = false;
    TrainerOptions trainer;
    TrainData data;
};

struct Plan {
    /// What the allocator of the device will have counted when the run has taken its largest steps.
    tensor::MemoryStats memory;
    std::size_t mapped = 0;   // bytes of files that are read in every step, beside the allocator
    std::size_t outside = 0;  // an assumption: what neither tensors nor files take
    std::size_t host = 0;     // bytes that an offloaded optimizer takes of the host's memory, beside the device's
    tensor::Profile work;     // of one step, the largest
    std::int64_t tokens = 0;  // of that step, on all ranks
    tensor::Traffic traffic;  // of that step
    std::int64_t calls = 0;   // in which the ranks exchanged it

    std::size_t needed() const { return memory.peak + mapped + outside; }
    double flops() const;
};

/// Runs the steps with the largest micro-batches on a meta device, and the reference's pass before them where the
/// objective has one. Evaluation is not in it. `roofs`: of the device, for the seconds of the profile.
/// InputError as of Trainer.
Plan make_plan(const PlanRequest& request, const tensor::Roofs& roofs = {});

/// Rows of `length` tokens, of which the last `targets` are learned: as many as the batch, and as many to retain; and a
/// refusal of 24 tokens.
TrainData synthetic_data(const llama::Config& config, std::int64_t rows, std::int64_t length, std::int64_t targets);

/// Other settings for the same run, as flags: "--micro-batch 4 --recompute".
struct Fit {
    std::string flags;
    Plan plan;
};
/// The least change of settings with which the run needs no more than `memory`: smaller micro-batches, recompute, among
/// ranks higher ZeRO stages, on a GPU the optimizer on the host, which change no result, before bf16, and that before
/// an adapter. Each is planned. Nothing when none fits.
std::optional<Fit> nearest_fit(const PlanRequest& request, std::size_t memory);

/// The least that must be computed again for the run to need no more than `memory`; all there is where nothing helps.
llama::Recompute least_recompute(PlanRequest request, std::size_t memory);

/// Throws InputError, one line with the settings that would fit, when the plan needs more than `memory`.
void check_fits(const Plan& plan, const PlanRequest& request, std::size_t memory);

/// "13.5 GB" (10^9 bytes), "812 MB".
std::string size_text(double bytes);
/// "80G", "512M" or a number of bytes (G: 10^9; Gi: 2^30); InputError that names the flag.
std::size_t parse_size(const std::string& text, const char* flag);
/// The parts that are not 0, the largest first: "weights 0.44 GB, gradients 0.44 GB".
std::string parts_text(const Plan& plan);

}  // namespace uipe::unlearn
