// One measurement on a GPU: the device's time of a call. On the emulator the same benchmarks run at tiny sizes, once,
// to be tested; their times say nothing.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "tensor/cuda/runtime.h"
#include "tensor/ops.h"

namespace uipe::bench {

#ifdef UIPE_EMULATED
constexpr bool tiny = true;
#else
constexpr bool tiny = false;
#endif

constexpr tensor::Device cuda_device{tensor::Device::Kind::cuda, 0};

/// What one call does: FLOPs that are useful, bytes read and written once each, tokens. 0: the call has none.
struct DeviceWork {
    double flops = 0;
    double bytes = 0;
    double tokens = 0;
};

/// A tensor of N(0, std²) on the device: zeros or a repeated number would draw less power and flatter the clock.
inline tensor::Tensor random_on_device(tensor::Shape shape, tensor::DType dtype, std::uint64_t seed, double std = 1.0) {
    tensor::Tensor y = tensor::Tensor::empty(std::move(shape), dtype, cuda_device);
    tensor::fill_normal(y, std, 1, seed);
    return y;
}

/// Seconds of a call: the median of five batches, each between two marks in the queue and long enough (20 ms, one call
/// at least) that neither the marks nor the first launch shows. Before them a call that plans what it needs, one that
/// is timed to find the size of a batch, and a batch for the clock. A call of a second or more is a batch of its own
/// and brings the clock up itself: one more is timed.
template <class Call>
double seconds_on_device(const Call& call) {
    constexpr double batch_seconds = 20e-3;
    constexpr std::size_t batches = tiny ? 1 : 5;
    tensor::cuda::Stopwatch watch;
    const auto batch = [&](int calls) {
        watch.start();
        for (int i = 0; i < calls; ++i) call();
        watch.stop();
        return watch.seconds() / calls;
    };
    batch(1);
    int calls = 1;
    if (!tiny) {
        const double once = batch(1);
        if (once >= 1.0) return batch(1);
        calls = static_cast<int>(std::clamp(std::ceil(batch_seconds / once), 1.0, 1000.0));
        batch(calls);
    }
    std::vector<double> times;
    while (times.size() < batches) times.push_back(batch(calls));
    std::nth_element(times.begin(), times.begin() + batches / 2, times.end());
    return times[batches / 2];
}

/// Times `call` as the benchmark's one iteration. Counters: GFLOP/s or GB/s, tok/s.
template <class Call>
void measure_on_device(benchmark::State& state, const DeviceWork& work, const Call& call) {
    for ([[maybe_unused]] auto _ : state) {
        const double seconds = seconds_on_device(call);
        state.SetIterationTime(seconds);
        if (work.flops > 0) state.counters["GFLOP/s"] = work.flops / seconds / 1e9;
        if (work.bytes > 0) state.counters["GB/s"] = work.bytes / seconds / 1e9;
        if (work.tokens > 0) state.counters["tok/s"] = work.tokens / seconds;
    }
}

/// Adds cuda/NAME. Where it cannot run, for want of a device, of memory or of an op, it says so and the next one runs.
inline void register_on_device(const std::string& name, std::function<void(benchmark::State&)> body) {
    benchmark::RegisterBenchmark(("cuda/" + name).c_str(),
                                 [body = std::move(body)](benchmark::State& state) {
                                     try {
                                         tensor::cuda::stream();
                                         body(state);
                                     } catch (const std::exception& e) {
                                         state.SkipWithError(e.what());
                                     }
                                     if (tensor::cuda::what_is_missing().empty()) tensor::cuda::trim_pool();
                                 })
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond)
        ->Iterations(1);
}

}  // namespace uipe::bench
