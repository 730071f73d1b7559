// What an evaluation spends its time on, with the small model: scoring 64 rows of question and answer, scoring 7
// answers to each of 8 questions, greedy generation of 64 new tokens for each of 32 prompts of 20, and of up to 200
// tokens in all for 64 prompts of 40 to 170, 16 at a time. FLOPs are the forward pass's (small_model.h); tok/s counts
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

/// As in TOFU's sets, seven answers to a question, which begin alike. The FLOPs are those of the rows that differ: the
/// question and the answers' beginning count once, but the last token of it, which predicts what differs, each time.
void score_answers(benchmark::State& state, DType dtype) {
    constexpr std::int64_t question = 25;
    constexpr std::int64_t alike = 12;
    constexpr std::int64_t shared = question + alike - 1;  // rows
    const std::vector<std::int64_t> rest{48, 45, 42, 39, 36, 33, 30};
    const llama::Config config = small_config();
    const llama::Llama model(config, llama::random_weights(config, dtype, 0));
    std::vector<llama::Sequence> rows;
    double tokens = 0.0;
    double flops = 0.0;
    for (std::uint64_t q = 0; q < 8; ++q) {
        const std::vector<std::int32_t> beginning = random_ids(question + alike, config.vocab_size, q);
        flops += block_flops(config, shared, causal_pairs({shared})) + head_flops(config, alike);
        for (const std::int64_t n : rest) {
            rows.push_back({beginning, question});
            const std::vector<std::int32_t> end = random_ids(n, config.vocab_size, 8 + rows.size());
            rows.back().ids.insert(rows.back().ids.end(), end.begin(), end.end());
            flops += block_flops(config, static_cast<double>(n), causal_pairs({shared + n}) - causal_pairs({shared})) +
                     head_flops(config, static_cast<double>(n));
            tokens += static_cast<double>(shared + n);
        }
    }
    measure(state, {.flops = flops, .tokens = tokens, .dtype = dtype},
            [&] { benchmark::DoNotOptimize(llama::token_logprobs(model, rows)); });
}

/// `lengths`: the rows read of each sequence, which are all but the last new token; the head sees only the rows that
/// choose a token.
void generate_from(benchmark::State& state, DType dtype, const std::vector<std::int64_t>& prompt_lengths,
                   const std::vector<std::int64_t>& lengths, llama::GenerateOptions options) {
    const llama::Config config = small_config();
    const llama::Llama model(config, llama::random_weights(config, dtype, 0));
    std::vector<std::vector<std::int32_t>> prompts;
    for (const std::int64_t n : prompt_lengths) prompts.push_back(random_ids(n, config.vocab_size, prompts.size()));
    const double read = std::accumulate(lengths.begin(), lengths.end(), 0.0);
    const double made =
        read + static_cast<double>(lengths.size()) - std::accumulate(prompt_lengths.begin(), prompt_lengths.end(), 0.0);
    options.stop_at_eos = false;
    const double flops = block_flops(config, read, causal_pairs(lengths)) + head_flops(config, made);
    measure(state, {.flops = flops, .tokens = made, .dtype = dtype},
            [&] { benchmark::DoNotOptimize(llama::generate(model, prompts, options)); });
}

void generate(benchmark::State& state, DType dtype) {
    const std::vector<std::int64_t> prompts(32, 20);
    generate_from(state, dtype, prompts, std::vector<std::int64_t>(32, 83), {.max_new_tokens = 64});
}

void generate_unequal(benchmark::State& state, DType dtype) {
    const std::vector<std::int64_t> prompts = qa_lengths(64);
    generate_from(state, dtype, prompts, std::vector<std::int64_t>(64, 199), {.max_length = 200, .batch_size = 16});
}

BENCHMARK_CAPTURE(score, f32, DType::f32)->Apply(in_milliseconds);
BENCHMARK_CAPTURE(score, bf16, DType::bf16)->Apply(in_milliseconds);
BENCHMARK_CAPTURE(score_answers, f32, DType::f32)->Apply(in_milliseconds);
BENCHMARK_CAPTURE(score_answers, bf16, DType::bf16)->Apply(in_milliseconds);
BENCHMARK_CAPTURE(generate, f32, DType::f32)->Apply(in_milliseconds);
BENCHMARK_CAPTURE(generate, bf16, DType::bf16)->Apply(in_milliseconds);
BENCHMARK_CAPTURE(generate_unequal, f32, DType::f32)->Apply(in_milliseconds);
BENCHMARK_CAPTURE(generate_unequal, bf16, DType::bf16)->Apply(in_milliseconds);

}  // namespace
}  // namespace uipe::bench
