// The layers that wait for memory: RMSNorm (C = 768), SwiGLU (F = 2048) and AdamW, as a share of the copy bandwidth.
// T = 1024 is a step's size, where operands stay in a large cache and the share may pass 100 %; T = 32768 is beyond it.
// Bytes, each tensor read or written once, s bytes an element: RMSNorm 2 T C s forward (x, y), 3 T C s backward (dy, x,
// dx); SwiGLU 3 T F s forward (gate, up, y), 5 T F s backward (dy, gate, up, dgate, dup); AdamW 28 bytes a weight
// (master, m, v read and written, gradient read), 30 for bf16 weights, which are written too.
#include "bench/data.h"
#include "bench/measure.h"
#include "tensor/ops.h"

namespace uipe::bench {
namespace {

using tensor::DType;
using tensor::Tensor;

constexpr std::int64_t C = 768;
constexpr std::int64_t F = 2048;

Work work_of(DType dtype, double tensors, std::int64_t elements) {
    return {.bytes = tensors * static_cast<double>(elements) * static_cast<double>(tensor::size_of(dtype)),
            .dtype = dtype};
}

void rmsnorm(benchmark::State& state, DType dtype, bool backward) {
    const std::int64_t T = state.range(0);
    const Tensor x = random_tensor({T, C}, dtype, 0);
    const Tensor w = random_tensor({C}, dtype, 1);
    const Tensor y = Tensor::empty({T, C}, dtype);
    const Tensor rstd = Tensor::empty({T}, DType::f32);
    const auto forward = [&] { tensor::rmsnorm(y, rstd, x, w, 1e-6); };
    if (!backward) return measure(state, work_of(dtype, 2.0, T * C), forward);
    forward();
    const Tensor dw = Tensor::zeros({C}, DType::f32);
    const Tensor dx = Tensor::empty({T, C}, dtype);
    measure(state, work_of(dtype, 3.0, T * C), [&] { tensor::rmsnorm_backward(dx, dw, y, x, w, rstd, false); });
}

void swiglu(benchmark::State& state, DType dtype, bool backward) {
    const std::int64_t T = state.range(0);
    const Tensor gate = random_tensor({T, F}, dtype, 0);
    const Tensor up = random_tensor({T, F}, dtype, 1);
    const Tensor y = random_tensor({T, F}, dtype, 2);
    if (!backward) return measure(state, work_of(dtype, 3.0, T * F), [&] { tensor::swiglu(y, gate, up); });
    const Tensor dgate = Tensor::empty({T, F}, dtype);
    const Tensor dup = Tensor::empty({T, F}, dtype);
    measure(state, work_of(dtype, 5.0, T * F), [&] { tensor::swiglu_backward(dgate, dup, y, gate, up, false, false); });
}

void adamw(benchmark::State& state, DType dtype) {
    const std::int64_t n = state.range(0);
    const Tensor master = random_tensor({n}, DType::f32, 0);
    const Tensor param = dtype == DType::f32 ? master : master.to(dtype);
    const Tensor grad = random_tensor({n}, DType::f32, 1);
    const Tensor m = Tensor::zeros({n}, DType::f32);
    const Tensor v = Tensor::zeros({n}, DType::f32);
    const Work work{.bytes = static_cast<double>(n) * (dtype == DType::f32 ? 28.0 : 30.0), .dtype = dtype};
    measure(state, work, [&] { tensor::adamw(param, master, m, v, grad, {.lr = 1e-5, .weight_decay = 0.01}); });
}

void tokens(benchmark::internal::Benchmark* b) { b->ArgName("T")->Arg(1024)->Arg(32768)->Apply(in_milliseconds); }
void weights(benchmark::internal::Benchmark* b) { b->ArgName("n")->Arg(15'000'000)->Apply(in_milliseconds); }

BENCHMARK_CAPTURE(rmsnorm, f32_forward, DType::f32, false)->Apply(tokens);
BENCHMARK_CAPTURE(rmsnorm, bf16_forward, DType::bf16, false)->Apply(tokens);
BENCHMARK_CAPTURE(rmsnorm, f32_backward, DType::f32, true)->Apply(tokens);
BENCHMARK_CAPTURE(rmsnorm, bf16_backward, DType::bf16, true)->Apply(tokens);
BENCHMARK_CAPTURE(swiglu, f32_forward, DType::f32, false)->Apply(tokens);
BENCHMARK_CAPTURE(swiglu, bf16_forward, DType::bf16, false)->Apply(tokens);
BENCHMARK_CAPTURE(swiglu, f32_backward, DType::f32, true)->Apply(tokens);
BENCHMARK_CAPTURE(swiglu, bf16_backward, DType::bf16, true)->Apply(tokens);
BENCHMARK_CAPTURE(adamw, f32, DType::f32)->Apply(weights);
BENCHMARK_CAPTURE(adamw, bf16, DType::bf16)->Apply(weights);

}  // namespace
}  // namespace uipe::bench
