// What waits for memory: RMSNorm, RoPE, embedding and residual addition (C = 768), SwiGLU (F = 2048) and AdamW, as
// a share of the copy bandwidth. T = 1024 is a step's size, where operands stay in a large cache and the share may pass
// 100 %; T = 32000 is beyond it. Bytes, each tensor read or written once, s bytes an element:
//   RMSNorm   forward 2 T C s (x, y); backward 3 T C s (dy, x, dx)
//   SwiGLU    forward 3 T F s (gate, up, y); backward 5 T F s (dy, gate, up, dgate, dup)
//   RoPE      2 T C s (x, y); backward is the same turned back
//   embedding forward 2 T C s (the rows of the table, y); backward T C (s + 8) (dy, the f32 rows read and written)
//   addition  3 T C s (x, r, y)
//   addition and RMSNorm  4 T C s (x, r, their sum, y)
//   AdamW     28 bytes a weight (weight, m, v read and written, gradient read); of bf16 the weight and its rest
#include "bench/data.h"
#include "bench/measure.h"
#include "tensor/ops.h"

namespace uipe::bench {
namespace {

using tensor::DType;
using tensor::Tensor;

constexpr std::int64_t C = 768;
constexpr std::int64_t F = 2048;

double bytes_of(DType dtype) { return static_cast<double>(tensor::size_of(dtype)); }

Work work_of(DType dtype, double bytes_an_element, std::int64_t elements) {
    return {.bytes = bytes_an_element * static_cast<double>(elements), .dtype = dtype};
}

void rmsnorm(benchmark::State& state, DType dtype, bool backward) {
    const std::int64_t T = state.range(0);
    const Tensor x = random_tensor({T, C}, dtype, 0);
    const Tensor w = random_tensor({C}, dtype, 1);
    const Tensor y = Tensor::empty({T, C}, dtype);
    const Tensor rstd = Tensor::empty({T}, DType::f32);
    const auto forward = [&] { tensor::rmsnorm(y, rstd, x, w, 1e-6); };
    if (!backward) return measure(state, work_of(dtype, 2.0 * bytes_of(dtype), T * C), forward);
    forward();
    const Tensor dw = Tensor::zeros({C}, DType::f32);
    const Tensor dx = Tensor::empty({T, C}, dtype);
    measure(state, work_of(dtype, 3.0 * bytes_of(dtype), T * C),
            [&] { tensor::rmsnorm_backward(dx, dw, y, x, w, rstd, false); });
}

void swiglu(benchmark::State& state, DType dtype, bool backward) {
    const std::int64_t T = state.range(0);
    const Tensor gate = random_tensor({T, F}, dtype, 0);
    const Tensor up = random_tensor({T, F}, dtype, 1);
    const Tensor y = random_tensor({T, F}, dtype, 2);
    if (!backward)
        return measure(state, work_of(dtype, 3.0 * bytes_of(dtype), T * F), [&] { tensor::swiglu(y, gate, up); });
    const Tensor dgate = Tensor::empty({T, F}, dtype);
    const Tensor dup = Tensor::empty({T, F}, dtype);
    measure(state, work_of(dtype, 5.0 * bytes_of(dtype), T * F),
            [&] { tensor::swiglu_backward(dgate, dup, y, gate, up, false, false); });
}

void rope(benchmark::State& state, DType dtype, bool backward) {
    constexpr std::int64_t D = 64;
    const std::int64_t T = state.range(0);
    std::vector<std::int32_t> positions;
    for (std::int64_t t = 0; t < T; ++t) positions.push_back(static_cast<std::int32_t>(t % 256));
    const Tensor where = Tensor::from(positions);
    const Tensor x = random_tensor({T, C}, dtype, 0);
    const Tensor y = Tensor::empty({T, C}, dtype);
    measure(state, work_of(dtype, 2.0 * bytes_of(dtype), T * C),
            [&] { tensor::rope(y, x, where, D, 10000.0, backward); });
}

/// Tokens that are scattered over the vocabulary, each at most once.
void embedding(benchmark::State& state, DType dtype, bool backward) {
    constexpr std::int64_t V = 32000;
    constexpr std::int64_t stride = 7919;  // a prime that does not divide V
    const std::int64_t T = state.range(0);
    std::vector<std::int32_t> ids;
    for (std::int64_t t = 0; t < T; ++t) ids.push_back(static_cast<std::int32_t>(t * stride % V));
    const Tensor tokens = Tensor::from(ids);
    const Tensor y = random_tensor({T, C}, dtype, 0);
    if (!backward) {
        const Tensor table = random_tensor({V, C}, dtype, 1);
        return measure(state, work_of(dtype, 2.0 * bytes_of(dtype), T * C),
                       [&] { tensor::embedding(y, table, tokens); });
    }
    const Tensor dtable = Tensor::zeros({V, C}, DType::f32);
    measure(state, work_of(dtype, bytes_of(dtype) + 8.0, T * C),
            [&] { tensor::embedding_backward(dtable, y, tokens); });
}

void add(benchmark::State& state, DType dtype) {
    const std::int64_t T = state.range(0);
    const Tensor x = random_tensor({T, C}, dtype, 0);
    const Tensor r = random_tensor({T, C}, dtype, 1);
    const Tensor y = Tensor::empty({T, C}, dtype);
    measure(state, work_of(dtype, 3.0 * bytes_of(dtype), T * C), [&] { tensor::add(y, x, r); });
}

void add_rmsnorm(benchmark::State& state, DType dtype) {
    const std::int64_t T = state.range(0);
    const Tensor x = random_tensor({T, C}, dtype, 0);
    const Tensor r = random_tensor({T, C}, dtype, 1);
    const Tensor w = random_tensor({C}, dtype, 2);
    const Tensor h = Tensor::empty({T, C}, dtype);
    const Tensor y = Tensor::empty({T, C}, dtype);
    const Tensor rstd = Tensor::empty({T}, DType::f32);
    measure(state, work_of(dtype, 4.0 * bytes_of(dtype), T * C),
            [&] { tensor::add_rmsnorm(h, y, rstd, x, r, w, 1e-6); });
}

void adamw(benchmark::State& state, DType dtype, DType moments) {
    const std::int64_t n = state.range(0);
    const Tensor w = random_tensor({n}, dtype, 0);
    const Tensor rest = dtype == DType::f32 ? Tensor() : Tensor::zeros({n}, dtype);
    const Tensor grad = random_tensor({n}, DType::f32, 1);
    const Tensor m = Tensor::zeros({n}, moments);
    const Tensor v = Tensor::zeros({n}, moments);
    measure(state, work_of(dtype, 12.0 + 4.0 * bytes_of(moments), n),
            [&] { tensor::adamw(w, rest, m, v, grad, {.lr = 1e-5, .weight_decay = 0.01}); });
}

void tokens(benchmark::internal::Benchmark* b) { b->ArgName("T")->Arg(1024)->Arg(32000)->Apply(in_milliseconds); }
void weights(benchmark::internal::Benchmark* b) { b->ArgName("n")->Arg(15'000'000)->Apply(in_milliseconds); }

BENCHMARK_CAPTURE(rmsnorm, f32_forward, DType::f32, false)->Apply(tokens);
BENCHMARK_CAPTURE(rmsnorm, bf16_forward, DType::bf16, false)->Apply(tokens);
BENCHMARK_CAPTURE(rmsnorm, f32_backward, DType::f32, true)->Apply(tokens);
BENCHMARK_CAPTURE(rmsnorm, bf16_backward, DType::bf16, true)->Apply(tokens);
BENCHMARK_CAPTURE(swiglu, f32_forward, DType::f32, false)->Apply(tokens);
BENCHMARK_CAPTURE(swiglu, bf16_forward, DType::bf16, false)->Apply(tokens);
BENCHMARK_CAPTURE(swiglu, f32_backward, DType::f32, true)->Apply(tokens);
BENCHMARK_CAPTURE(swiglu, bf16_backward, DType::bf16, true)->Apply(tokens);
BENCHMARK_CAPTURE(rope, f32_forward, DType::f32, false)->Apply(tokens);
BENCHMARK_CAPTURE(rope, bf16_forward, DType::bf16, false)->Apply(tokens);
BENCHMARK_CAPTURE(rope, f32_backward, DType::f32, true)->Apply(tokens);
BENCHMARK_CAPTURE(rope, bf16_backward, DType::bf16, true)->Apply(tokens);
BENCHMARK_CAPTURE(embedding, f32_forward, DType::f32, false)->Apply(tokens);
BENCHMARK_CAPTURE(embedding, bf16_forward, DType::bf16, false)->Apply(tokens);
BENCHMARK_CAPTURE(embedding, f32_backward, DType::f32, true)->Apply(tokens);
BENCHMARK_CAPTURE(embedding, bf16_backward, DType::bf16, true)->Apply(tokens);
BENCHMARK_CAPTURE(add, f32, DType::f32)->Apply(tokens);
BENCHMARK_CAPTURE(add, bf16, DType::bf16)->Apply(tokens);
BENCHMARK_CAPTURE(add_rmsnorm, f32, DType::f32)->Apply(tokens);
BENCHMARK_CAPTURE(add_rmsnorm, bf16, DType::bf16)->Apply(tokens);
BENCHMARK_CAPTURE(adamw, f32, DType::f32, DType::f32)->Apply(weights);
BENCHMARK_CAPTURE(adamw, bf16, DType::bf16, DType::f32)->Apply(weights);
BENCHMARK_CAPTURE(adamw, f32_bf16_moments, DType::f32, DType::bf16)->Apply(weights);
BENCHMARK_CAPTURE(adamw, bf16_bf16_moments, DType::bf16, DType::bf16)->Apply(weights);

}  // namespace
}  // namespace uipe::bench
