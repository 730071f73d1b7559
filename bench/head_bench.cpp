// The LM head with softmax and loss, T = 1024 tokens, V = 32000.
// `head`, C = 288. FLOPs: forward 2 T C V; backward 4 T C V (the gradients of hidden and w), from the gradient by the
// logits that the forward pass leaves, as in training.
// `softmax`, C = 8: products of next to no arithmetic, so that what is left is the softmax. Bytes: forward, the f32
// logits written and read, 8 T V; backward, their gradient read by two products and, in f32, as large as they.
#include "bench/data.h"
#include "bench/measure.h"
#include "tensor/ops.h"

namespace uipe::bench {
namespace {

using tensor::DType;
using tensor::Tensor;

constexpr std::int64_t T = 1024;
constexpr std::int64_t V = 32000;

struct Inputs {
    Inputs(DType dtype, std::int64_t width)
        : C(width),
          hidden(random_tensor({T, C}, dtype, 0)),
          w(random_tensor({V, C}, dtype, 1)),
          targets(Tensor::from(random_ids(T, V, 0))),
          logp(Tensor::empty({T}, DType::f32)),
          dlogits(Tensor::empty({T, V}, dtype)) {}

    void forward() const { tensor::token_logprob(logp, hidden, w, targets, {}, dlogits); }

    std::int64_t C;
    Tensor hidden, w, targets, logp, dlogits;
};

void measure_forward(benchmark::State& state, const Inputs& in, const Work& work) {
    measure(state, work, [&] { in.forward(); });
}

void measure_backward(benchmark::State& state, const Inputs& in, const Work& work) {
    in.forward();
    const Tensor dlogp = Tensor::full({T}, DType::f32, -1.0 / T);
    const Tensor dhidden = Tensor::empty({T, in.C}, in.w.dtype());
    const Tensor dw = Tensor::zeros({V, in.C}, DType::f32);
    measure(state, work, [&] {
        tensor::token_logprob_backward(dhidden, dw, dlogp, in.hidden, in.w, in.targets, false, in.dlogits);
    });
}

Work products(DType dtype, std::int64_t C, double flops_a_weight) {
    return {.flops = flops_a_weight * static_cast<double>(T * C * V), .tokens = T, .dtype = dtype};
}

Work logits(DType dtype, double times) {
    return {.bytes = times * static_cast<double>(T * V) * sizeof(float), .tokens = T, .dtype = dtype};
}

void head_forward(benchmark::State& state, DType dtype) {
    measure_forward(state, Inputs(dtype, 288), products(dtype, 288, 2.0));
}

void head_backward(benchmark::State& state, DType dtype) {
    measure_backward(state, Inputs(dtype, 288), products(dtype, 288, 4.0));
}

void softmax_forward(benchmark::State& state, DType dtype) {
    measure_forward(state, Inputs(dtype, 8), logits(dtype, 2.0));
}

void softmax_backward(benchmark::State& state, DType dtype) {
    measure_backward(state, Inputs(dtype, 8), logits(dtype, 5.0));
}

BENCHMARK_CAPTURE(head_forward, f32, DType::f32)->Apply(in_milliseconds);
BENCHMARK_CAPTURE(head_forward, bf16, DType::bf16)->Apply(in_milliseconds);
BENCHMARK_CAPTURE(head_backward, f32, DType::f32)->Apply(in_milliseconds);
BENCHMARK_CAPTURE(head_backward, bf16, DType::bf16)->Apply(in_milliseconds);
BENCHMARK_CAPTURE(softmax_forward, f32, DType::f32)->Apply(in_milliseconds);
BENCHMARK_CAPTURE(softmax_forward, bf16, DType::bf16)->Apply(in_milliseconds);
BENCHMARK_CAPTURE(softmax_backward, f32, DType::f32)->Apply(in_milliseconds);
BENCHMARK_CAPTURE(softmax_backward, bf16, DType::bf16)->Apply(in_milliseconds);

}  // namespace
}  // namespace uipe::bench
