#include "bench/roof.h"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <functional>
#include <limits>

#include "bench/data.h"
#include "tensor/ops.h"
#include "tensor/parallel.h"

namespace uipe::bench {
namespace {

/// The shortest of a few calls, after one that does not count.
double best_seconds(const std::function<void()>& work) {
    constexpr int tries = 5;
    double best = std::numeric_limits<double>::infinity();
    for (int i = 0; i <= tries; ++i) {
        const auto start = std::chrono::steady_clock::now();
        work();
        const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
        if (i > 0) best = std::min(best, took.count());
    }
    return best;
}

double gemm_roof(tensor::DType dtype) {
    double best = 0.0;
    for (const std::int64_t n : {1024, 1536, 2048}) {
        const tensor::Tensor a = random_tensor({n, n}, dtype, 0);
        const tensor::Tensor b = random_tensor({n, n}, dtype, 1);
        const tensor::Tensor y = tensor::Tensor::empty({n, n}, tensor::DType::f32);
        const double flops = 2.0 * static_cast<double>(n * n * n);
        best = std::max(best, flops / best_seconds([&] { tensor::matmul(y, a, false, b, true); }));
    }
    return best;
}

#if defined(__AVX512F__)
constexpr std::size_t register_bytes = 64;
#elif defined(__AVX__)
constexpr std::size_t register_bytes = 32;
#else
constexpr std::size_t register_bytes = 16;
#endif
using Register = float __attribute__((vector_size(register_bytes)));

double fma_roof() {
    constexpr std::int64_t steps = 2'000'000;
    // Two units with a latency of four or five cycles need ten chains; with both factors they fit sixteen registers.
    constexpr std::size_t chains = 12;
    const std::int64_t threads = tensor::num_threads();
    const double seconds = best_seconds([threads] {
        tensor::parallel_for(threads, 1, [](std::int64_t, std::int64_t) {
            std::array<Register, chains> sums{};
            Register factor = Register{} + 0.999F;
            Register term = Register{} + 0.001F;
            benchmark::DoNotOptimize(factor);
            benchmark::DoNotOptimize(term);
            for (std::int64_t i = 0; i < steps; ++i)
                for (Register& s : sums) s = s * factor + term;
            benchmark::DoNotOptimize(sums);
        });
    });
    return 2.0 * static_cast<double>(threads * steps) * chains * (register_bytes / sizeof(float)) / seconds;
}

double copy_roof() {
    constexpr std::int64_t floats = std::int64_t{1} << 26;  // 256 MiB
    const tensor::Tensor from = random_tensor({floats}, tensor::DType::f32, 0);
    const tensor::Tensor to = random_tensor({floats}, tensor::DType::f32, 1);
    const double seconds = best_seconds([&] {
        tensor::parallel_for(floats, 1, [&](std::int64_t begin, std::int64_t end) {
            const tensor::Tensor part = to.rows(begin, end);
            std::memcpy(part.raw(), from.rows(begin, end).raw(), part.nbytes());
        });
        benchmark::ClobberMemory();
    });
    return 2.0 * static_cast<double>(from.nbytes()) / seconds;
}

}  // namespace

const Roof& roof() {
    static const Roof measured{gemm_roof(tensor::DType::f32), gemm_roof(tensor::DType::bf16), fma_roof(), copy_roof()};
    return measured;
}

}  // namespace uipe::bench
