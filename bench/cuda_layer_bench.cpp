// A layer in the sizes of LLaMA-2-7B, forward and backward: bf16 with f32 gradients of weights. On the emulator sizes
// are tiny.
// FLOPs: three times the forward pass's (models.h): causal attention counts half of its square, 6 per weight of a
// product and token; norms, RoPE and what is computed again count nothing.
#include "bench/cuda_models.h"
#include "bench/data.h"
#include "nn/attention.h"

namespace uipe::bench {
namespace {

using autograd::Variable;
using tensor::DType;
using tensor::Tensor;

constexpr std::int64_t T = sequence_length;

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
    const llama::Config c = llama_config(1);
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

[[maybe_unused]] const bool registered = [] {
    const llama::Config c = llama_config(1);
    for (const std::int64_t B : {1, 4})
        register_on_device(cat("layer/B", B, "/T", T, "/C", c.hidden_size, "/F", c.intermediate_size, "/D", c.head_dim),
                           [B](benchmark::State& state) { layer(state, B); });
    return true;
}();

}  // namespace
}  // namespace uipe::bench
