// The benchmark program: Google Benchmark's own command line; the context names the machine and its roofs.
// Options of its own: --fixture=FOLDER writes what another engine needs for the same work, and ends;
// --gpu-fixture=FOLDER the same for work on a GPU (--gpu-checks=FOLDER without weights), and --first-step=FOLDER does a
// step from it; --roofs=off leaves the roofs out, for a run whose time or memory is to be its own.
#include <benchmark/benchmark.h>
#include <dnnl.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <string>

#include "bench/cuda_fixture.h"
#include "bench/fixture.h"
#include "bench/measure.h"
#include "tensor/base/error.h"
#include "tensor/cuda/runtime.h"
#include "tensor/idle_threads.h"
#include "tensor/parallel.h"

namespace {

using namespace uipe;

std::string cpu_name() {
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);)
        if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
    return "unknown";
}

std::string rate(double per_second, const char* unit) {
    char text[64];
    std::snprintf(text, sizeof text, "%.1f %s", per_second / 1e9, unit);
    return text;
}

void describe_machine() {
    const dnnl_version_t* dnnl = dnnl_version();
    benchmark::AddCustomContext("cpu", cpu_name());
    benchmark::AddCustomContext("threads", std::to_string(tensor::num_threads()));
    benchmark::AddCustomContext("onednn", cat(dnnl->major, ".", dnnl->minor, ".", dnnl->patch));
#ifdef UIPE_CUDA
    if (tensor::cuda::what_is_missing().empty()) benchmark::AddCustomContext("gpu", tensor::cuda::device_name());
    benchmark::AddCustomContext("cuda", UIPE_CUDA_VERSION);
#endif
    if (!bench::with_roofs) return;
    benchmark::AddCustomContext("roof_f32", rate(bench::roof().f32, "GFLOP/s"));
    benchmark::AddCustomContext("roof_bf16", rate(bench::roof().bf16, "GFLOP/s"));
    benchmark::AddCustomContext("roof_copy", rate(bench::roof().copy, "GB/s"));
    benchmark::AddCustomContext("roof_read", rate(bench::roof().read, "GB/s"));
}

/// Removes --name=VALUE from the arguments and returns VALUE; empty when it is not there.
std::string take_option(int& argc, char** argv, const std::string& name) {
    const std::string prefix = "--" + name + "=";
    for (int i = 1; i < argc; ++i) {
        const std::string argument = argv[i];
        if (!argument.starts_with(prefix)) continue;
        std::copy(argv + i + 1, argv + argc + 1, argv + i);  // the null at the end as well
        --argc;
        return argument.substr(prefix.size());
    }
    return "";
}

int run(int argc, char** argv) {
    const std::string fixture = take_option(argc, argv, "fixture");
    const std::string gpu_fixture = take_option(argc, argv, "gpu-fixture");
    const std::string gpu_checks = take_option(argc, argv, "gpu-checks");
    const std::string first_step = take_option(argc, argv, "first-step");
    bench::with_roofs = take_option(argc, argv, "roofs") != "off";
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
    tensor::set_num_threads(0);
    if (!fixture.empty()) {
        bench::write_fixture(fixture);
        return 0;
    }
#ifdef UIPE_CUDA
    if (!gpu_fixture.empty()) return bench::write_gpu_fixture(gpu_fixture, true), 0;
    if (!gpu_checks.empty()) return bench::write_gpu_fixture(gpu_checks, false), 0;
    if (!first_step.empty()) return bench::first_step(first_step), 0;
#else
    require_input(gpu_fixture.empty() && gpu_checks.empty() && first_step.empty(), "this build has no CUDA backend");
#endif
    describe_machine();
    benchmark::RunSpecifiedBenchmarks();
    benchmark::Shutdown();
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    uipe::tensor::let_idle_threads_sleep(argv);
    try {
        return run(argc, argv);
    } catch (const std::exception& e) {
        std::fprintf(stderr, "uipe_bench: %s\n", e.what());
        return 1;
    }
}
