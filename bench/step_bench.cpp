// A whole training step on four sequences of 256 tokens, by the trainer itself: forward, backward, clipping, AdamW.
// FLOPs: three times the forward pass's (models.h), for the backward pass has two products for each of its own; what it
// computes again is not counted. Counters: the loss of the first step and of the last, for comparison with another
// engine, and the process's peak memory so far, which is the step's own when nothing else ran and roofs were off.
#include <fstream>

#include "bench/data.h"
#include "bench/measure.h"
#include "bench/models.h"
#include "unlearn/trainer.h"

namespace uipe::bench {
namespace {

using tensor::DType;

/// Bytes of resident memory at its highest, as the system counts them; 0 where it does not say.
double peak_bytes() {
    std::ifstream status("/proc/self/status");
    for (std::string word; status >> word;)
        if (double kib = 0; word == "VmHWM:" && status >> kib) return 1024.0 * kib;
    return 0.0;
}

void step(benchmark::State& state, const NamedModel& named, DType dtype) {
    const llama::Config& config = named.config;
    llama::Llama model(config, weights_of(named, dtype));
    unlearn::TrainerOptions options;
    options.epochs = 1'000'000;  // of one step
    options.batch_size = 4;
    options.schedule = nn::Schedule::constant;
    options.warmup_epochs = 0.0;
    options.shuffle = false;
    unlearn::Trainer trainer(model, nullptr, unlearn::fine_tuning(), {step_sequences(config), {}, {}}, options);
    constexpr double T = 4 * 256;
    const double forward = block_flops(config, T, causal_pairs({256, 256, 256, 256})) + head_flops(config, T);
    std::vector<double> losses;
    measure(state, {.flops = 3.0 * forward, .tokens = T, .dtype = dtype},
            [&] { losses.push_back(trainer.run_step().loss); });
    state.counters["first_loss"] = losses.front();
    state.counters["last_loss"] = losses.back();
    state.counters["peak_MB"] = peak_bytes() / 1e6;
}

// Fixed numbers of steps: making the model anew to find a good one would take longer than the steps.
BENCHMARK_CAPTURE(step, 15M_f32, small_model(), DType::f32)->Iterations(10)->Apply(in_milliseconds);
BENCHMARK_CAPTURE(step, 15M_bf16, small_model(), DType::bf16)->Iterations(10)->Apply(in_milliseconds);
BENCHMARK_CAPTURE(step, 110M_f32, large_model(), DType::f32)->Iterations(3)->Apply(in_milliseconds);
BENCHMARK_CAPTURE(step, 110M_bf16, large_model(), DType::bf16)->Iterations(3)->Apply(in_milliseconds);

}  // namespace
}  // namespace uipe::bench
