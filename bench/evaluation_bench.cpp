// What an evaluation spends its time on, with random weights. FLOPs are the forward pass's (models.h).
//   score     64 rows of question and answer, packed
//   generate  greedy, 64 new tokens for each of 32 prompts of 20
//   decode    greedy, 64 new tokens after a prompt of one, of the large model. Each token reads every weight once, and
//             that is what it is judged by (a tied embedding counts as the head)
//   tofu      a TOFU evaluation (tofu_task.h), text to text: tokenizing, scoring, generating, ROUGE
// tok/s counts tokens scored, and new tokens generated.
#include <numeric>

#include "bench/data.h"
#include "bench/measure.h"
#include "bench/tofu_task.h"
#include "llama/generate.h"
#include "llama/logprobs.h"

namespace uipe::bench {
namespace {

using tensor::DType;

llama::Llama model_of(const NamedModel& named, DType dtype) { return {named.config, weights_of(named, dtype)}; }

void score(benchmark::State& state, DType dtype) {
    const llama::Llama model = model_of(small_model(), dtype);
    const std::vector<std::int64_t> lengths = qa_lengths(64);
    const std::vector<llama::Sequence> rows = random_sequences(model.config(), lengths);
    const double T = std::accumulate(lengths.begin(), lengths.end(), 0.0);
    const double flops = block_flops(model.config(), T, causal_pairs(lengths)) + head_flops(model.config(), T);
    measure(state, {.flops = flops, .tokens = T, .dtype = dtype},
            [&] { benchmark::DoNotOptimize(llama::token_logprobs(model, rows)); });
}

std::vector<std::vector<std::int32_t>> random_prompts(std::int64_t B, std::int64_t length, std::int64_t V) {
    std::vector<std::vector<std::int32_t>> prompts;
    for (std::int64_t b = 0; b < B; ++b) prompts.push_back(random_ids(length, V, static_cast<std::uint64_t>(b)));
    return prompts;
}

constexpr std::int64_t added = 64;

llama::GenerateOptions exactly_added() {
    llama::GenerateOptions options;
    options.max_new_tokens = added;
    options.stop_at_eos = false;
    return options;
}

void generate(benchmark::State& state, DType dtype) {
    constexpr std::int64_t B = 32;
    constexpr std::int64_t prompt = 20;
    const llama::Llama model = model_of(small_model(), dtype);
    const auto prompts = random_prompts(B, prompt, model.config().vocab_size);
    // The last new token is never read back; the head sees only the rows that choose a token.
    const std::vector<std::int64_t> lengths(B, prompt + added - 1);
    const auto read = static_cast<double>(B * lengths.front());
    const auto made = static_cast<double>(B * added);
    const double flops = block_flops(model.config(), read, causal_pairs(lengths)) + head_flops(model.config(), made);
    measure(state, {.flops = flops, .tokens = made, .dtype = dtype},
            [&] { benchmark::DoNotOptimize(llama::generate(model, prompts, exactly_added())); });
}

void decode(benchmark::State& state, DType dtype) {
    const llama::Llama model = model_of(large_model(), dtype);
    const auto prompts = random_prompts(1, 1, model.config().vocab_size);
    const auto weights = static_cast<double>(llama::parameter_count(model.config()));
    const double bytes = static_cast<double>(added) * weights * static_cast<double>(tensor::size_of(dtype));
    measure(state, {.bytes = bytes, .tokens = added, .reads_only = true, .dtype = dtype},
            [&] { benchmark::DoNotOptimize(llama::generate(model, prompts, exactly_added())); });
}

/// Shows its time alone.
void tofu(benchmark::State& state, DType dtype) {
    const std::optional<TofuTask> task = tofu_task();
    if (!task) return state.SkipWithError("UIPE_DATA does not name the folder of the real TOFU data");
    const llama::Llama model = model_of(small_model(), dtype);
    task->run(model);
    for ([[maybe_unused]] auto _ : state) benchmark::DoNotOptimize(task->run(model));
}

BENCHMARK_CAPTURE(score, f32, DType::f32)->Apply(in_milliseconds);
BENCHMARK_CAPTURE(score, bf16, DType::bf16)->Apply(in_milliseconds);
BENCHMARK_CAPTURE(generate, f32, DType::f32)->Apply(in_milliseconds);
BENCHMARK_CAPTURE(generate, bf16, DType::bf16)->Apply(in_milliseconds);
BENCHMARK_CAPTURE(decode, 110M_f32, DType::f32)->Iterations(1)->Apply(in_milliseconds);
BENCHMARK_CAPTURE(decode, 110M_bf16, DType::bf16)->Iterations(1)->Apply(in_milliseconds);
BENCHMARK_CAPTURE(tofu, 15M_f32, DType::f32)->Iterations(1)->Apply(in_milliseconds);
BENCHMARK_CAPTURE(tofu, 15M_bf16, DType::bf16)->Iterations(1)->Apply(in_milliseconds);

}  // namespace
}  // namespace uipe::bench
