// A whole training step on four sequences of 256 tokens, by the trainer itself: forward, backward, clipping, AdamW; and
// steps of unlearning.
// FLOPs: three times the forward pass's (models.h), for the backward pass has two products for each of its own; what it
// computes again is not counted. Counters: the loss of the first step and of the last, for comparison with another
// engine, and the process's peak memory so far, which is the step's own when nothing else ran and roofs were off.
#include <fstream>

#include "bench/data.h"
#include "bench/measure.h"
#include "bench/models.h"
#include "tensor/allocator.h"
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

void step(benchmark::State& state, const NamedModel& named, DType dtype,
          llama::Recompute recompute = llama::Recompute::norm, DType moments = DType::f32) {
    const llama::Config& config = named.config;
    llama::Llama model(config, weights_of(named, dtype));
    model.set_recompute(recompute);
    unlearn::TrainerOptions options;
    options.adamw.moments = moments;
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
    state.counters["tensors_MB"] = static_cast<double>(tensor::memory_stats().peak) / 1e6;
}

/// A step of unlearning: 16 rows to forget and 16 to retain, of TOFU's lengths or, for a model as small as the demo's,
/// a quarter of them; the targets are the second half of each row.
void unlearning(benchmark::State& state, const NamedModel& named, DType dtype, const char* method) {
    std::vector<std::int64_t> lengths = qa_lengths(32);
    if (named.config.vocab_size < 32000)
        for (std::int64_t& n : lengths) n /= 4;
    auto rows = random_sequences(named.config, lengths);
    for (llama::Sequence& s : rows) s.first_target = static_cast<std::int64_t>(s.ids.size()) / 2;
    const auto middle = rows.begin() + 16;
    llama::Llama model(named.config, weights_of(named, dtype));
    llama::Llama reference(named.config, weights_of(named, dtype));
    unlearn::TrainerOptions options;
    options.epochs = 1'000'000;  // of one step
    options.batch_size = 16;
    options.warmup_epochs = 0.0;
    options.shuffle = false;
    unlearn::Trainer trainer(model, &reference, unlearn::unlearning_objective(method),
                             {{rows.begin(), middle}, {}, {middle, rows.end()}}, options);
    measure(state, {.tokens = static_cast<double>(trainer.run_step().tokens), .dtype = dtype},
            [&] { trainer.run_step(); });
    state.counters["peak_MB"] = peak_bytes() / 1e6;
}

// Fixed numbers of steps: making the model anew to find a good one would take longer than the steps.
BENCHMARK_CAPTURE(step, 15M_f32, small_model(), DType::f32, llama::Recompute::norm)
    ->Iterations(10)
    ->Apply(in_milliseconds);
BENCHMARK_CAPTURE(step, 15M_bf16, small_model(), DType::bf16, llama::Recompute::norm)
    ->Iterations(10)
    ->Apply(in_milliseconds);
BENCHMARK_CAPTURE(step, 110M_f32, large_model(), DType::f32, llama::Recompute::norm)
    ->Iterations(3)
    ->Apply(in_milliseconds);
BENCHMARK_CAPTURE(step, 110M_bf16, large_model(), DType::bf16, llama::Recompute::norm)
    ->Iterations(3)
    ->Apply(in_milliseconds);
// Memory before time: blocks are computed again, to the same bits; and moments in bf16, to others.
BENCHMARK_CAPTURE(step, 110M_f32_recompute, large_model(), DType::f32, llama::Recompute::block)
    ->Iterations(3)
    ->Apply(in_milliseconds);
BENCHMARK_CAPTURE(step, 110M_bf16_recompute_moments, large_model(), DType::bf16, llama::Recompute::block, DType::bf16)
    ->Iterations(3)
    ->Apply(in_milliseconds);
BENCHMARK_CAPTURE(unlearning, demo_f32_grad_diff, demo_model(), DType::f32, "grad_diff")->Apply(in_milliseconds);
BENCHMARK_CAPTURE(unlearning, demo_f32_kl_min, demo_model(), DType::f32, "kl_min")->Apply(in_milliseconds);
BENCHMARK_CAPTURE(unlearning, 15M_f32_grad_diff, small_model(), DType::f32, "grad_diff")
    ->Iterations(5)
    ->Apply(in_milliseconds);
BENCHMARK_CAPTURE(unlearning, 15M_f32_kl_min, small_model(), DType::f32, "kl_min")
    ->Iterations(5)
    ->Apply(in_milliseconds);
BENCHMARK_CAPTURE(unlearning, 15M_bf16_grad_diff, small_model(), DType::bf16, "grad_diff")
    ->Iterations(5)
    ->Apply(in_milliseconds);

}  // namespace
}  // namespace uipe::bench
