// The work of LLaMA-2-7B on a GPU: steps of training and unlearning by the trainer, the optimizer's part alone, and
// generation. bf16 with f32 masters, gradients and moments. On the emulator sizes are tiny.
//   cuda/step        one sequence of T tokens
//   cuda/unlearning  32 rows to forget and the 32 to retain that they are paired with, as long as TOFU's
//   cuda/optimizer   the gradient's norm, clipping, AdamW
//   cuda/decode      n new tokens of one sequence; every weight but the embedding is read once a token
//   cuda/generate    n new tokens for each prompt of a TOFU evaluation
// FLOPs: three times the forward pass's (models.h), forward alone for generate: causal attention counts half of its
// square, 6 per weight of a product and token; norms, RoPE and what is computed again count nothing. Counters: loss and
// norm of the gradient of the first step, and the most memory that was taken from the device.
#include <numeric>

#include "bench/cuda_models.h"
#include "bench/data.h"
#include "llama/generate.h"
#include "unlearn/trainer.h"

namespace uipe::bench {
namespace {

using tensor::DType;
using tensor::Tensor;

/// Bytes that a step of so many tokens needs: a weight and its rest, gradient and two moments; what a layer keeps of
/// each token; and the logits of the head with as much again for what comes and goes.
double bytes_of_step(const llama::Config& c, double tokens) {
    const double weights = static_cast<double>(llama::parameter_count(c)) * (2 + 2 + 4 + 4 + 4);
    const double kept =
        2.0 * tokens * static_cast<double>(c.num_layers * (8 * c.hidden_size + 3 * c.intermediate_size));
    return weights + kept + 4.0 * tokens * static_cast<double>(c.vocab_size);
}

unlearn::TrainerOptions endless_options(std::int64_t rows) {
    unlearn::TrainerOptions options;
    options.epochs = 1'000'000;  // of one step
    options.batch_size = rows;
    options.schedule = nn::Schedule::constant;
    options.warmup_epochs = 0.0;
    options.shuffle = false;
    return options;
}

std::vector<std::int64_t> lengths_of(const std::vector<llama::Sequence>& rows) {
    std::vector<std::int64_t> lengths;
    for (const llama::Sequence& s : rows) lengths.push_back(static_cast<std::int64_t>(s.ids.size()) - 1);
    return lengths;
}

/// Steps of the model on data that all of a step's tokens are in `rows`, `targets` of them with a target.
void steps(benchmark::State& state, std::int64_t layers, const unlearn::Objective& objective,
           const unlearn::TrainData& data, const std::vector<llama::Sequence>& rows) {
    const llama::Config config = llama_config(layers);
    const std::vector<std::int64_t> lengths = lengths_of(rows);
    const double tokens = std::accumulate(lengths.begin(), lengths.end(), 0.0);
    require_memory(bytes_of_step(config, tokens));
    llama::Llama model(config, weights_on_device(config));
    unlearn::Trainer trainer(model, nullptr, objective, data,
                             endless_options(static_cast<std::int64_t>(data.rows.size())));
    double targets = 0.0;
    for (const llama::Sequence& s : rows)
        targets += static_cast<double>(s.ids.size()) - static_cast<double>(s.first_target);
    const double forward = block_flops(config, tokens, causal_pairs(lengths)) + head_flops(config, targets);
    unlearn::StepInfo first;
    measure_on_device(state, {.flops = 3.0 * forward, .tokens = tokens}, [&] {
        const unlearn::StepInfo info = trainer.run_step();
        if (info.step == 1) first = info;
    });
    state.counters["first_loss"] = first.loss;
    state.counters["grad_norm"] = first.grad_norm;
    state.counters["peak_MB"] = static_cast<double>(tensor::cuda::pool_size()) / 1e6;
}

void step(benchmark::State& state, std::int64_t layers) {
    const auto rows = one_sequence(llama_config(layers));
    steps(state, layers, unlearn::fine_tuning(), {rows, {}, {}}, rows);
}

void unlearning(benchmark::State& state, std::int64_t layers, const char* method) {
    const TofuRows tofu = tofu_rows(llama_config(layers));
    std::vector<llama::Sequence> rows = tofu.forget;
    rows.insert(rows.end(), tofu.partners.begin(), tofu.partners.end());
    steps(state, layers, unlearn::unlearning_objective(method), {tofu.forget, {}, tofu.retain}, rows);
}

// --- The optimizer ------------------------------------------------------------------------------------------------

/// One weight matrix, and what a step of AdamW reads and writes of it.
struct Slot {
    explicit Slot(const tensor::Shape& shape)
        : w(random_on_device(shape, DType::bf16, 0, 0.02)),
          rest(Tensor::zeros(shape, DType::bf16, cuda_device)),
          m(Tensor::zeros(shape, DType::f32, cuda_device)),
          v(Tensor::zeros(shape, DType::f32, cuda_device)),
          grad(random_on_device(shape, DType::f32, 1)) {}

    Tensor w, rest, m, v, grad;
};

/// Bytes of a weight: gradient, weight, rest and moments read, and the last four written. That the norm
/// reads gradients once more is not counted.
void optimizer(benchmark::State& state, std::int64_t layers) {
    const llama::Config config = llama_config(layers);
    const auto weights = static_cast<double>(llama::parameter_count(config));
    require_memory(16.0 * weights);
    std::vector<Slot> slots;
    for (const auto& [name, shape] : llama::expected_weights(config)) slots.emplace_back(shape);
    tensor::AdamWStep how{.lr = 1e-5, .weight_decay = 0.01, .step = 0};
    how.max_norm = 1.0;
    measure_on_device(state, {.bytes = 28.0 * weights}, [&] {
        how.step++;
        how.squares = Tensor::zeros({1}, DType::f64, cuda_device);
        for (const Slot& s : slots) tensor::add_squares(how.squares, s.grad);
        for (const Slot& s : slots) tensor::adamw(s.w, s.rest, s.m, s.v, s.grad, how);
    });
}

// --- Generation ---------------------------------------------------------------------------------------------------

/// The label of each is the tokens that the peer's are held against: all of the only prompt, or the first of many.
void generation(benchmark::State& state, const std::vector<std::vector<std::int32_t>>& prompts, std::int64_t added) {
    const llama::Config config = llama_config(all_layers);
    require_memory(2.5 * static_cast<double>(llama::parameter_count(config)));
    const llama::Llama model(config, weights_on_device(config));
    llama::GenerateOptions options;
    options.max_new_tokens = added;
    options.stop_at_eos = false;        // random weights do not end where an answer would
    std::vector<std::int64_t> lengths;  // the last new token is never read back
    for (const auto& p : prompts) lengths.push_back(static_cast<std::int64_t>(p.size()) + added - 1);
    const double made = static_cast<double>(prompts.size()) * static_cast<double>(added);
    const double read = std::accumulate(lengths.begin(), lengths.end(), 0.0);
    DeviceWork work{.tokens = made};
    if (prompts.size() == 1)
        work.bytes =
            2.0 * made * static_cast<double>(llama::parameter_count(config) - config.vocab_size * config.hidden_size);
    else
        work.flops = block_flops(config, read, causal_pairs(lengths)) + head_flops(config, made);
    std::vector<std::vector<std::int32_t>> answers;
    measure_on_device(state, work, [&] { answers = llama::generate(model, prompts, options); });
    std::string ids;
    for (const auto& answer : answers)
        for (std::size_t i = 0; i < (answers.size() == 1 ? answer.size() : 1); ++i) ids += cat(answer[i], " ");
    state.SetLabel(ids);
}

[[maybe_unused]] const bool registered = [] {
    // 32 layers are the whole model; 16 fit a GPU of 80 GB.
    for (const std::int64_t layers : tiny ? std::vector<std::int64_t>{2} : std::vector<std::int64_t>{16, 32}) {
        const std::string L = cat("/L", layers);
        register_on_device(cat("step", L, "/T", sequence_length), [=](benchmark::State& s) { step(s, layers); });
        for (const char* method : {"grad_diff", "npo_rt"})
            register_on_device(cat("unlearning/", method, L),
                               [=](benchmark::State& s) { unlearning(s, layers, method); });
        register_on_device(cat("optimizer", L), [=](benchmark::State& s) { optimizer(s, layers); });
    }
    const std::int64_t alone = tiny ? 4 : 128;
    const std::int64_t together = tiny ? 3 : 64;
    register_on_device(cat("decode/L", all_layers, "/n", alone),
                       [=](benchmark::State& s) { generation(s, one_prompt(llama_config(all_layers)), alone); });
    register_on_device(cat("generate/L", all_layers, "/n", together),
                       [=](benchmark::State& s) { generation(s, tofu_prompts(llama_config(all_layers)), together); });
    return true;
}();

}  // namespace
}  // namespace uipe::bench
