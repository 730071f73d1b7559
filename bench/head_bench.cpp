// The LM head with softmax and loss, T = 1024 tokens, C = 288, V = 32000. FLOPs: forward 2 T C V; backward 4 T C V (the
// gradients of hidden and w), from the gradient by the logits that the forward pass leaves, as in training.
#include "bench/data.h"
#include "bench/measure.h"
#include "tensor/ops.h"

namespace uipe::bench {
namespace {

using tensor::DType;
using tensor::Tensor;

constexpr std::int64_t T = 1024;
constexpr std::int64_t C = 288;
constexpr std::int64_t V = 32000;

struct Inputs {
    explicit Inputs(DType dtype)
        : hidden(random_tensor({T, C}, dtype, 0)),
          w(random_tensor({V, C}, dtype, 1)),
          targets(Tensor::from(random_ids(T, V, 0))),
          logp(Tensor::empty({T}, DType::f32)),
          dlogits(Tensor::empty({T, V}, dtype)) {}

    Tensor hidden, w, targets, logp, dlogits;
};

Work work_of(DType dtype, double flops_a_weight) {
    return {.flops = flops_a_weight * static_cast<double>(T * C * V), .tokens = T, .dtype = dtype};
}

void head_forward(benchmark::State& state, DType dtype) {
    const Inputs in(dtype);
    measure(state, work_of(dtype, 2.0),
            [&] { tensor::token_logprob(in.logp, in.hidden, in.w, in.targets, {}, in.dlogits); });
}

void head_backward(benchmark::State& state, DType dtype) {
    const Inputs in(dtype);
    tensor::token_logprob(in.logp, in.hidden, in.w, in.targets, {}, in.dlogits);
    const Tensor dlogp = Tensor::full({T}, DType::f32, -1.0 / T);
    const Tensor dhidden = Tensor::empty({T, C}, dtype);
    const Tensor dw = Tensor::zeros({V, C}, DType::f32);
    measure(state, work_of(dtype, 4.0), [&] {
        tensor::token_logprob_backward(dhidden, dw, dlogp, in.hidden, in.w, in.targets, false, in.dlogits);
    });
}

BENCHMARK_CAPTURE(head_forward, f32, DType::f32)->Apply(in_milliseconds);
BENCHMARK_CAPTURE(head_forward, bf16, DType::bf16)->Apply(in_milliseconds);
BENCHMARK_CAPTURE(head_backward, f32, DType::f32)->Apply(in_milliseconds);
BENCHMARK_CAPTURE(head_backward, bf16, DType::bf16)->Apply(in_milliseconds);

}  // namespace
}  // namespace uipe::bench
