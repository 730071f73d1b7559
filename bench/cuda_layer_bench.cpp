// A layer in the sizes of LLaMA-2-7B, forward and backward, and whole training steps of models of such layers by the
// trainer: bf16 with f32 masters, gradients and moments. On the emulator sizes are tiny.
// FLOPs: three times the forward pass's (models.h): causal attention counts half of its square, 6 per weight of a
// product and token; norms, RoPE and what is computed again count nothing.
#include "bench/cuda_measure.h"
#include "bench/data.h"
#include "bench/models.h"
#include "unlearn/trainer.h"

namespace uipe::bench {
namespace {

using autograd::Variable;
using tensor::DType;
using tensor::Tensor;

llama::Config config_of(std::int64_t layers) {
    llama::Config c;
    c.hidden_size = tiny ? 64 : 4096;
    c.intermediate_size = tiny ? 96 : 11008;
    c.num_layers = layers;
    c.num_heads = c.num_kv_heads = tiny ? 2 : 32;
    c.head_dim = c.hidden_size / c.num_heads;
    c.vocab_size = tiny ? 64 : 32000;
    c.max_position_embeddings = 4096;
    return c;
}

constexpr std::int64_t T = tiny ? 16 : 2048;  // of a sequence

// --- A layer ------------------------------------------------------------------------------------------------------

/// x + attention(norm(x)), then the same of the MLP.
struct Layer {
    explicit Layer(const llama::Config& c)
        : norm1(ones(c), c.rms_norm_eps),
          attention(weight(c.num_heads * c.head_dim, c.hidden_size), weight(c.num_kv_heads * c.head_dim, c.hidden_size),
                    weight(c.num_kv_heads * c.head_dim, c.hidden_size), weight(c.hidden_size, c.num_heads * c.head_dim),
                    c.head_dim, c.rope_theta),
          norm2(ones(c), c.rms_norm_eps),
          mlp(weight(c.intermediate_size, c.hidden_size), weight(c.intermediate_size, c.hidden_size),
              weight(c.hidden_size, c.intermediate_size)) {}

    Variable operator()(const Variable& x, const nn::Packing& packing) const {
        const Variable h = autograd::add(x, attention(norm1(x), packing));
        return autograd::add(h, mlp(norm2(h)));
    }

    nn::Parameters parameters() const {
        nn::Parameters all;
        for (const nn::Module* part : std::initializer_list<const nn::Module*>{&norm1, &attention, &norm2, &mlp})
            part->collect("", all);
        return all;
    }

    static Tensor ones(const llama::Config& c) { return Tensor::full({c.hidden_size}, DType::bf16, 1.0, cuda_device); }
    static Tensor weight(std::int64_t out, std::int64_t in) {
        return random_on_device({out, in}, DType::bf16, static_cast<std::uint64_t>(out + in), 0.02);
    }

    nn::RmsNorm norm1;
    nn::Attention attention;
    nn::RmsNorm norm2;
    nn::SwiGlu mlp;
};

void layer(benchmark::State& state, std::int64_t B) {
    const llama::Config c = config_of(1);
    const Layer block(c);
    const nn::Parameters parameters = block.parameters();
    const std::vector<std::int64_t> lengths(static_cast<std::size_t>(B), T);
    std::vector<std::int32_t> positions;
    for (std::int64_t t = 0; t < B * T; ++t) positions.push_back(static_cast<std::int32_t>(t % T));
    const nn::Packing packing{Tensor::from(positions), offsets(lengths)};
    const Variable x = Variable::leaf(random_on_device({B * T, c.hidden_size}, DType::bf16, 0));
    const Tensor dy = random_on_device({B * T, c.hidden_size}, DType::bf16, 1);
    const double tokens = static_cast<double>(B * T);
    const DeviceWork work{.flops = 3.0 * block_flops(c, tokens, causal_pairs(lengths)), .tokens = tokens};
    measure_on_device(state, work, [&] {
        x.clear_grad();
        for (const nn::Parameter& p : parameters) p.variable.clear_grad();
        autograd::backward(block(x, packing), dy);
    });
}

// --- A training step ----------------------------------------------------------------------------------------------

/// Bytes that a step needs: a weight and its master, gradient and two moments; what a layer keeps of each token; and
/// the logits of the head with as much again for what comes and goes.
double bytes_of_step(const llama::Config& c, double tokens) {
    const double weights = static_cast<double>(llama::parameter_count(c)) * (2 + 4 + 4 + 4 + 4);
    const double kept =
        2.0 * tokens * static_cast<double>(c.num_layers * (8 * c.hidden_size + 3 * c.intermediate_size));
    return weights + kept + 4.0 * tokens * static_cast<double>(c.vocab_size);
}

void require_memory(double bytes) {
    const double there = static_cast<double>(tensor::cuda::device_memory().free);
    require(tiny || bytes <= there, "needs ", static_cast<std::int64_t>(bytes / 1e9), " GB, ",
            static_cast<std::int64_t>(there / 1e9), " are free");
}

llama::StateDict weights_on_device(const llama::Config& c) {
    llama::StateDict weights;
    for (const auto& [name, shape] : llama::expected_weights(c))
        weights[name] = random_on_device(shape, DType::bf16, weights.size(), 0.02);
    return weights;
}

void step(benchmark::State& state, std::int64_t layers) {
    const NamedModel named{"", config_of(layers)};
    const double tokens = static_cast<double>(T);
    require_memory(bytes_of_step(named.config, tokens));
    llama::Llama model(named.config, weights_on_device(named.config));
    unlearn::TrainerOptions options;
    options.epochs = 1'000'000;  // of one step
    options.batch_size = 1;
    options.schedule = nn::Schedule::constant;
    options.warmup_epochs = 0.0;
    options.shuffle = false;
    unlearn::Trainer trainer(model, nullptr, unlearn::fine_tuning(), {random_sequences(named.config, {T}), {}, {}},
                             options);
    const double forward = block_flops(named.config, tokens, causal_pairs({T})) + head_flops(named.config, tokens);
    measure_on_device(state, {.flops = 3.0 * forward, .tokens = tokens}, [&] { trainer.run_step(); });
}

[[maybe_unused]] const bool registered = [] {
    const llama::Config c = config_of(1);
    for (const std::int64_t B : {1, 4})
        register_on_device(cat("layer/B", B, "/T", T, "/C", c.hidden_size, "/F", c.intermediate_size, "/D", c.head_dim),
                           [B](benchmark::State& state) { layer(state, B); });
    // 32 layers are the whole model; 16 fit a GPU of 80 GB.
    for (const std::int64_t layers : tiny ? std::vector<std::int64_t>{2} : std::vector<std::int64_t>{16, 32})
        register_on_device(cat("step/L", layers, "/T", T), [layers](benchmark::State& state) { step(state, layers); });
    return true;
}();

}  // namespace
}  // namespace uipe::bench
