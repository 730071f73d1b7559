// Causal attention, H = K = 12 heads of D = 64: one sequence of 512 tokens or of 2048, and 64 packed
// rows of question and answer.
// FLOPs, over the causal pairs alone: forward 4 D H a pair (q k^T and p v), backward 8 D H (dv, dp, dq, dk); the
// backward pass also computes q k^T again, which is not counted, so that its share cannot reach 100 %.
#include <numeric>

#include "bench/data.h"
#include "bench/measure.h"
#include "tensor/ops.h"

namespace uipe::bench {
namespace {

using tensor::DType;
using tensor::Tensor;

constexpr std::int64_t H = 12;
constexpr std::int64_t D = 64;

struct Inputs {
    Inputs(const std::vector<std::int64_t>& lengths, DType dtype)
        : T(std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0})),
          pairs(causal_pairs(lengths)),
          q(random_tensor({T, H * D}, dtype, 0)),
          k(random_tensor({T, H * D}, dtype, 1)),
          v(random_tensor({T, H * D}, dtype, 2)),
          out(Tensor::empty({T, H * D}, dtype)),
          lse(Tensor::empty({T, H}, DType::f32)),
          cu_seqlens(offsets(lengths)) {}

    std::int64_t T;
    double pairs;
    Tensor q, k, v, out, lse, cu_seqlens;
};

Work work_of(const Inputs& in, double flops_a_pair) {
    return {.flops = flops_a_pair * D * H * in.pairs, .tokens = static_cast<double>(in.T), .dtype = in.q.dtype()};
}

void attention_forward(benchmark::State& state, DType dtype, const std::vector<std::int64_t>& lengths) {
    const Inputs in(lengths, dtype);
    measure(state, work_of(in, 4.0),
            [&] { tensor::attention(in.out, in.lse, in.q, in.k, in.v, in.cu_seqlens, in.cu_seqlens, D); });
}

void attention_backward(benchmark::State& state, DType dtype, const std::vector<std::int64_t>& lengths) {
    const Inputs in(lengths, dtype);
    tensor::attention(in.out, in.lse, in.q, in.k, in.v, in.cu_seqlens, in.cu_seqlens, D);
    const Tensor dout = random_tensor({in.T, H * D}, dtype, 3);
    const Tensor dq = Tensor::empty({in.T, H * D}, dtype);
    const Tensor dk = Tensor::empty({in.T, H * D}, dtype);
    const Tensor dv = Tensor::empty({in.T, H * D}, dtype);
    measure(state, work_of(in, 8.0), [&] {
        tensor::attention_backward(dq, dk, dv, dout, in.q, in.k, in.v, in.out, in.lse, in.cu_seqlens, D, false, false,
                                   false);
    });
}

std::vector<std::int64_t> one_of(std::int64_t T) { return {T}; }

BENCHMARK_CAPTURE(attention_forward, f32_T512, DType::f32, one_of(512))->Apply(in_milliseconds);
BENCHMARK_CAPTURE(attention_forward, bf16_T512, DType::bf16, one_of(512))->Apply(in_milliseconds);
BENCHMARK_CAPTURE(attention_forward, f32_T2048, DType::f32, one_of(2048))->Apply(in_milliseconds);
BENCHMARK_CAPTURE(attention_forward, bf16_T2048, DType::bf16, one_of(2048))->Apply(in_milliseconds);
BENCHMARK_CAPTURE(attention_forward, f32_64_rows, DType::f32, qa_lengths(64))->Apply(in_milliseconds);
BENCHMARK_CAPTURE(attention_forward, bf16_64_rows, DType::bf16, qa_lengths(64))->Apply(in_milliseconds);
BENCHMARK_CAPTURE(attention_backward, f32_T512, DType::f32, one_of(512))->Apply(in_milliseconds);
BENCHMARK_CAPTURE(attention_backward, bf16_T512, DType::bf16, one_of(512))->Apply(in_milliseconds);
BENCHMARK_CAPTURE(attention_backward, f32_T2048, DType::f32, one_of(2048))->Apply(in_milliseconds);
BENCHMARK_CAPTURE(attention_backward, bf16_T2048, DType::bf16, one_of(2048))->Apply(in_milliseconds);
BENCHMARK_CAPTURE(attention_backward, f32_64_rows, DType::f32, qa_lengths(64))->Apply(in_milliseconds);
BENCHMARK_CAPTURE(attention_backward, bf16_64_rows, DType::bf16, qa_lengths(64))->Apply(in_milliseconds);

}  // namespace
}  // namespace uipe::bench
