// Matrix products in the shapes of a training step, for widths C of Llama models of 15 and 110 million and of a
// billion weights: T tokens from C to N, which are width, feed-forward width and vocabulary. 2 T C N FLOPs each.
#include "bench/data.h"
#include "bench/measure.h"
#include "tensor/ops.h"

namespace uipe::bench {
namespace {

using tensor::DType;
using tensor::Tensor;

enum class Layout { NT, NN, TN };

/// NT, the forward pass: y[T,N] = x[T,C] w[N,C]^T. NN, the gradient of x: dx[T,C] = dy[T,N] w[N,C].
/// TN, the gradient of w, which is f32 for bf16 operands too: dw[N,C] = dy[T,N]^T x[T,C].
void gemm(benchmark::State& state, DType dtype, Layout layout) {
    const std::int64_t T = state.range(0);
    const std::int64_t C = state.range(1);
    const std::int64_t N = state.range(2);
    const Tensor a = random_tensor({T, layout == Layout::NT ? C : N}, dtype, 0);
    const Tensor b = random_tensor({layout == Layout::TN ? T : N, C}, dtype, 1);
    const Tensor y = layout == Layout::TN ? Tensor::empty({N, C}, DType::f32)
                                          : Tensor::empty({T, layout == Layout::NT ? N : C}, dtype);
    const Work work{.flops = 2.0 * static_cast<double>(T * C * N), .dtype = dtype};
    measure(state, work, [&] { tensor::matmul(y, a, layout == Layout::TN, b, layout == Layout::NT); });
}

/// Queries, keys, values and outputs (C to C), gate and up (C to F), down (F to C), the head (C to V).
void shapes(benchmark::internal::Benchmark* b) {
    constexpr std::int64_t V = 32000;
    constexpr std::pair<std::int64_t, std::int64_t> widths[] = {{288, 768}, {768, 2048}, {2048, 5632}};  // C, F
    b->ArgNames({"T", "C", "N"})->Apply(in_milliseconds);
    for (const std::int64_t T : {256, 1024})
        for (const auto& [C, F] : widths) b->Args({T, C, C})->Args({T, C, F})->Args({T, F, C})->Args({T, C, V});
}

BENCHMARK_CAPTURE(gemm, f32_NT, DType::f32, Layout::NT)->Apply(shapes);
BENCHMARK_CAPTURE(gemm, f32_NN, DType::f32, Layout::NN)->Apply(shapes);
BENCHMARK_CAPTURE(gemm, f32_TN, DType::f32, Layout::TN)->Apply(shapes);
BENCHMARK_CAPTURE(gemm, bf16_NT, DType::bf16, Layout::NT)->Apply(shapes);
BENCHMARK_CAPTURE(gemm, bf16_NN, DType::bf16, Layout::NN)->Apply(shapes);
BENCHMARK_CAPTURE(gemm, bf16_TN, DType::bf16, Layout::TN)->Apply(shapes);

}  // namespace
}  // namespace uipe::bench
