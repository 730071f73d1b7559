// What an evaluation spends its time on, with the small model: scoring 64 rows of question and answer, and greedy
// generation of 64 new tokens for each of 32 prompts of 20. FLOPs are the forward pass's (small_model.h); tok/s counts
// rows scored, and new tokens generated.
#include <numeric>

#include "bench/data.h"
#include "bench/measure.h"
#include "bench/small_model.h"
#include "llama/generate.h"
#include "llama/logprobs.h"

namespace uipe::bench {
namespace {

using tensor::DType;

void score(benchmark::State& state, DType dtype) {
    const llama::Config config = small_config();
    const llama::Llama model(config, llama::random_weights(config, dtype, 0));
    const std::vector<std::int64_t> lengths = qa_lengths(64);
    const std::vector<llama::Sequence> rows = random_sequences(config, lengths);
    const double T = std::accumulate(lengths.begin(), lengths.end(), 0.0);
    const double flops = block_flops(config, T, causal_pairs(lengths)) + head_flops(config, T);
    measure(state, {.flops = flops, .tokens = T, .dtype = dtype},
            [&] { benchmark::DoNotOptimize(llama::token_logprobs(model, rows)); });
}

void generate(benchmark::State& state, DType dtype) {
    constexpr std::int64_t B = 32;
    constexpr std::int64_t prompt = 20;
    constexpr std::int64_t added = 64;
    const llama::Config config = small_config();
    const llama::Llama model(config, llama::random_weights(config, dtype, 0));
    std::vector<std::vector<std::int32_t>> prompts;
    for (std::uint64_t b = 0; b < B; ++b) prompts.push_back(random_ids(prompt, config.vocab_size, b));
    llama::GenerateOptions options;
    options.max_new_tokens = added;
    options.stop_at_eos = false;
    // The last new token is never read back; the head sees only the rows that choose a token.
    const std::vector<std::int64_t> lengths(B, prompt + added - 1);
    const auto read = static_cast<double>(B * lengths.front());
    const auto made = static_cast<double>(B * added);
    const double flops = block_flops(config, read, causal_pairs(lengths)) + head_flops(config, made);
    measure(state, {.flops = flops, .tokens = made, .dtype = dtype},
            [&] { benchmark::DoNotOptimize(llama::generate(model, prompts, options)); });
}

BENCHMARK_CAPTURE(score, f32, DType::f32)->Apply(in_milliseconds);
BENCHMARK_CAPTURE(score, bf16, DType::bf16)->Apply(in_milliseconds);
BENCHMARK_CAPTURE(generate, f32, DType::f32)->Apply(in_milliseconds);
BENCHMARK_CAPTURE(generate, bf16, DType::bf16)->Apply(in_milliseconds);

}  // namespace
}  // namespace uipe::bench
