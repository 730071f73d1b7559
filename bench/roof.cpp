#include "bench/roof.h"

#include <benchmark/benchmark.h>
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

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

double seconds_of(const std::function<void()>& call) {
    const auto start = std::chrono::steady_clock::now();
    call();
    benchmark::ClobberMemory();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// The shortest of many calls, after one that does not count: at least five, and a third of a second of them, for
/// neighbours that come and go.
double best_seconds(const std::function<void()>& call) {
    seconds_of(call);
    double best = std::numeric_limits<double>::infinity();
    double spent = 0.0;
    for (int i = 0; i < 5 || spent < 0.33; ++i) {
        const double took = seconds_of(call);
        best = std::min(best, took);
        spent += took;
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
constexpr std::size_t lanes = register_bytes / sizeof(float);

// Two units with a latency of four to six cycles need twelve chains; with both factors they fit sixteen registers.
constexpr std::size_t chains = 12;
using Chains = std::array<Register, chains>;

/// FLOP/s of `steps` passes over the chains on every thread; pass(chains) does `flops` for each chain.
template <class Pass>
double register_rate(double flops, const Pass& pass) {
    constexpr std::int64_t steps = 4'000'000;
    const std::int64_t threads = tensor::num_threads();
    const double seconds = best_seconds([&] {
        tensor::parallel_for(threads, 1, [&](std::int64_t, std::int64_t) {
            const Pass mine = pass;  // a copy whose address is nowhere else, so that its factors stay in registers
            Chains sums{};
            benchmark::DoNotOptimize(sums);  // else chains that begin alike are computed once
            for (std::int64_t i = 0; i < steps; ++i) mine(sums);
            benchmark::DoNotOptimize(sums);
        });
    });
    return static_cast<double>(threads * steps) * chains * flops / seconds;
}

double fma_roof() {
    Register factor = Register{} + 0.999F;
    Register term = Register{} + 0.001F;
    benchmark::DoNotOptimize(factor);
    benchmark::DoNotOptimize(term);
    return register_rate(2.0 * lanes, [factor, term](Chains& sums) {
        for (Register& s : sums) s = s * factor + term;
    });
}

/// 0 where the processor has no such instruction.
double dot_roof() {
#if defined(__AVX512BF16__)
    // Ones of alternating sign, so that sums stay small; two bf16 a lane, 0x3f80 is 1 and 0xbf80 is -1.
    __m512i pairs = _mm512_set1_epi32(0x3f80'3f80);
    __m512i signs = _mm512_set1_epi32(static_cast<int>(0xbf80'3f80U));
    benchmark::DoNotOptimize(pairs);
    benchmark::DoNotOptimize(signs);
    return register_rate(4.0 * lanes, [pairs, signs](Chains& sums) {
        for (Register& s : sums)
            s = reinterpret_cast<Register>(_mm512_dpbf16_ps(
                reinterpret_cast<__m512>(s), reinterpret_cast<__m512bh>(pairs), reinterpret_cast<__m512bh>(signs)));
    });
#else
    return 0.0;
#endif
}

double product_roof(tensor::DType dtype) {
    double best = 0.0;
    for (const std::int64_t n : {1024, 2048}) {
        const tensor::Tensor a = random_tensor({n, n}, dtype, 0);
        const tensor::Tensor b = random_tensor({n, n}, dtype, 1);
        const tensor::Tensor y = tensor::Tensor::empty({n, n}, tensor::DType::f32);
        const double flops = 2.0 * static_cast<double>(n * n * n);
        best = std::max(best, flops / best_seconds([&] { tensor::matmul(y, a, false, b, true); }));
    }
    return best;
}

/// Registers of a tensor that begin at this float.
Register* at(const tensor::Tensor& x, std::int64_t i) { return reinterpret_cast<Register*>(x.data<float>() + i); }

/// Calls body(begin, end) on ranges of n floats, whole registers each, on all threads.
template <class Body>
void in_registers(std::int64_t n, const Body& body) {
    constexpr std::int64_t block = 4096;
    tensor::parallel_for(n / block, 1, [&](std::int64_t begin, std::int64_t end) { body(begin * block, end * block); });
}

double copy_roof() {
    constexpr std::int64_t n = std::int64_t{1} << 26;  // floats: 256 MiB
    const tensor::Tensor from = random_tensor({n}, tensor::DType::f32, 0);
    const tensor::Tensor to = random_tensor({n}, tensor::DType::f32, 1);
    const double library = best_seconds([&] {
        in_registers(n, [&](std::int64_t begin, std::int64_t end) {
            std::memcpy(at(to, begin), at(from, begin), static_cast<std::size_t>(end - begin) * sizeof(float));
        });
    });
    const double loop = best_seconds([&] {
        in_registers(n, [&](std::int64_t begin, std::int64_t end) {
            const Register* x = at(from, begin);
            const Register* last = at(from, end);
            for (Register* y = at(to, begin); x != last; ++x, ++y) {
                Register value = *x;
                benchmark::DoNotOptimize(value);  // else the compiler calls memcpy
                *y = value;
            }
        });
    });
    const double streamed = best_seconds([&] { tensor::copy(to, from); });  // writes past the caches
    return 2.0 * static_cast<double>(from.nbytes()) / std::min({library, loop, streamed});
}

double read_roof() {
    constexpr std::int64_t n = std::int64_t{1} << 27;  // floats: 512 MiB
    const tensor::Tensor x = random_tensor({n}, tensor::DType::f32, 0);
    const double seconds = best_seconds([&] {
        in_registers(n, [&](std::int64_t begin, std::int64_t end) {
            std::array<Register, 8> sums{};
            for (const Register* p = at(x, begin); p != at(x, end); p += sums.size())
                for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += p[i];
            benchmark::DoNotOptimize(sums);
        });
    });
    return static_cast<double>(x.nbytes()) / seconds;
}

}  // namespace

const Roof& roof() {
    static const Roof measured{fma_roof(), std::max(dot_roof(), product_roof(tensor::DType::bf16)), copy_roof(),
                               read_roof()};
    return measured;
}

}  // namespace uipe::bench
