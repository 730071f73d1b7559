// One measurement: the time of a call, its rate, and the share of the roof that bounds it.
#pragma once

#include <benchmark/benchmark.h>

#include <chrono>

#include "bench/roof.h"

namespace uipe::bench {

/// What one call does. Arithmetic is judged by the processor's roof for `dtype`; a call without FLOPs by the memory's.
struct Work {
    double flops = 0;         // useful ones: what a backward pass computes again is not counted
    double bytes = 0;         // read and written once each
    double tokens = 0;        // 0: the call has none
    bool reads_only = false;  // the bytes are read: judged by the read bandwidth, not the copy bandwidth
    tensor::DType dtype = tensor::DType::f32;
};

/// Whether roofs are measured and shares shown; true unless the program was told otherwise.
inline bool with_roofs = true;

/// Times `call`, after one call that plans the products and touches the memory. Counters: GFLOP/s or GB/s,
/// share_of_roof in percent, tok/s.
template <class Call>
void measure(benchmark::State& state, const Work& work, const Call& call) {
    if (with_roofs) roof();
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
    if (work.tokens > 0) state.counters["tok/s"] = work.tokens / seconds;
    if (!with_roofs) return;
    const double memory = work.reads_only ? roof().read : roof().copy;
    state.counters["share_of_roof"] = 100.0 * rate / (computes ? roof().compute(work.dtype) : memory);
}

/// What every benchmark shares: wall time, because the work runs on many threads, in milliseconds.
inline void in_milliseconds(benchmark::internal::Benchmark* b) { b->UseRealTime()->Unit(benchmark::kMillisecond); }

}  // namespace uipe::bench
