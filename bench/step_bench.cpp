// A whole training step of the small model on four sequences of 256 tokens: forward, backward, clipping, AdamW.
// FLOPs: three times the forward pass's (small_model.h), for the backward pass has two products for each of its own;
// what it computes again is not counted. bench/torch_step.py times the same step in PyTorch.
#include "autograd/ops.h"
#include "bench/data.h"
#include "bench/measure.h"
#include "bench/small_model.h"
#include "nn/optimizer.h"

namespace uipe::bench {
namespace {

using tensor::DType;

void step(benchmark::State& state, DType dtype) {
    const llama::Config config = small_config();
    const llama::Llama model(config, llama::random_weights(config, dtype, 0));
    const std::vector<std::int64_t> lengths(4, 256);
    const llama::Batch batch = llama::pack(random_sequences(config, lengths));
    const nn::Parameters parameters = model.parameters();
    nn::AdamW optimizer(parameters, {});
    const auto T = static_cast<double>(batch.T);
    const double forward = block_flops(config, T, causal_pairs(lengths)) + head_flops(config, T);
    measure(state, {.flops = 3.0 * forward, .tokens = T, .dtype = dtype}, [&] {
        autograd::backward(autograd::scale(autograd::sum(model.logprob(batch)), -1.0 / T));
        optimizer.step(1e-5, nn::clip_scale(nn::global_grad_norm(parameters), 1.0));
    });
}

BENCHMARK_CAPTURE(step, f32, DType::f32)->Apply(in_milliseconds);
BENCHMARK_CAPTURE(step, bf16, DType::bf16)->Apply(in_milliseconds);

}  // namespace
}  // namespace uipe::bench
