// The benchmark program: Google Benchmark's own command line; the context names the machine and its roofs.
#include <benchmark/benchmark.h>
#include <dnnl.h>

#include <cstdio>
#include <fstream>
#include <string>

#include "bench/roof.h"
#include "tensor/base/error.h"
#include "tensor/parallel.h"

namespace {

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
    const uipe::bench::Roof& roof = uipe::bench::roof();
    benchmark::AddCustomContext("cpu", cpu_name());
    benchmark::AddCustomContext("threads", std::to_string(uipe::tensor::num_threads()));
    benchmark::AddCustomContext("onednn", uipe::cat(dnnl->major, ".", dnnl->minor, ".", dnnl->patch));
    benchmark::AddCustomContext("gemm_roof_f32", rate(roof.gemm_f32, "GFLOP/s"));
    benchmark::AddCustomContext("gemm_roof_bf16", rate(roof.gemm_bf16, "GFLOP/s"));
    benchmark::AddCustomContext("fma_roof_f32", rate(roof.fma_f32, "GFLOP/s"));
    benchmark::AddCustomContext("copy_roof", rate(roof.copy, "GB/s"));
}

}  // namespace

int main(int argc, char** argv) {
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
    uipe::tensor::set_num_threads(0);
    describe_machine();
    benchmark::RunSpecifiedBenchmarks();
    benchmark::Shutdown();
}
