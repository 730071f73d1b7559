// One measurement: the time of a call, its rate, and the share of the roof that bounds it.
#pragma once

#include <benchmark/benchmark.h>

#include <chrono>

#include "bench/roof.h"

namespace uipe::bench {

/// What one call does. Arithmetic is judged by the GEMM roof of `dtype`; a call without FLOPs by the copy bandwidth.
struct Work {
    double flops = 0;   // useful ones: what a backward pass computes again is not counted
    double bytes = 0;   // read and written once each
    double tokens = 0;  // 0: the call has none
    tensor::DType dtype = tensor::DType::f32;
};

/// Times `call`, after one call that plans the products and touches the memory. Counters: GFLOP/s or GB/s,
/// share_of_roof in percent, tok/s.
template <class Call>
void measure(benchmark::State& state, const Work& work, const Call& call) {
    const Roof& top = roof();
    call();
    const auto start = std::chrono::steady_clock::now();
    for ([[maybe_unused]] auto _ : state) {
        call();
        benchmark::ClobberMemory();
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    const double seconds = took.count() / static_cast<double>(state.iterations());
    const bool computes = work.flops > 0;
    const double rate = (computes ? work.flops : work.bytes) / seconds;
    state.counters[computes ? "GFLOP/s" : "GB/s"] = rate / 1e9;
    state.counters["share_of_roof"] = 100.0 * rate / (computes ? top.gemm(work.dtype) : top.copy);
    if (work.tokens > 0) state.counters["tok/s"] = work.tokens / seconds;
}

/// What every benchmark shares: wall time, because the work runs on many threads, in milliseconds.
inline void in_milliseconds(benchmark::internal::Benchmark* b) { b->UseRealTime()->Unit(benchmark::kMillisecond); }

}  // namespace uipe::bench
