#include "unlearn/profiling.h"

#include <algorithm>
#include <cstdio>

namespace uipe::unlearn {

Profiling::Profiling(std::int64_t steps, tensor::DType dtype, tensor::Device device)
    : most_(steps), device_(tensor::description(device)), roofs_(tensor::measure_roofs(dtype, device)) {}

void Profiling::resume() {
    (void)tensor::take_profile();
    tensor::set_profiling(true, roofs_);
    start_ = Clock::now();
}

void Profiling::pause(std::int64_t steps) {
    tensor::set_profiling(false);
    const tensor::Profile part = tensor::take_profile();
    seconds_ += std::chrono::duration<double>(Clock::now() - start_).count();
    steps_ += steps;
    for (std::size_t i = 0; i < part.size(); ++i) {
        sum_[i].calls += part[i].calls;
        sum_[i].seconds += part[i].seconds;
        sum_[i].work.flops += part[i].work.flops;
        sum_[i].work.bytes += part[i].work.bytes;
        sum_[i].least += part[i].least;
    }
}

namespace {

template <class... Values>
std::string line(const char* format, Values... values) {
    char text[160];
    std::snprintf(text, sizeof text, format, values...);
    return text;
}

}  // namespace

std::vector<std::string> Profiling::table() const {
    const double steps = static_cast<double>(std::max<std::int64_t>(1, steps_));
    std::vector<std::string> out;
    out.push_back(line("profile of %.0f steps on %s: %.3g ms a step", steps, device_.c_str(), 1e3 * seconds_ / steps));
    out.push_back(
        line("roofs: %.3g TFLOP/s in a product, %.3g GB/s in a copy", roofs_.flops * 1e-12, roofs_.bytes * 1e-9));
    out.push_back(line("%-14s %10s %8s %8s %9s", "", "ms a step", "share", "calls", "of roof"));
    double rest = seconds_;
    for (std::size_t i = 0; i < sum_.size(); ++i) {
        const auto& [calls, seconds, work, least] = sum_[i];
        if (calls == 0) continue;
        rest -= seconds;
        out.push_back(line("%-14s %10.3f %6.1f %% %8.0f %7.0f %%", tensor::name_of(static_cast<tensor::Family>(i)),
                           1e3 * seconds / steps, 100.0 * seconds / seconds_, static_cast<double>(calls) / steps,
                           100.0 * least / seconds));
    }
    out.push_back(line("%-14s %10.3f %6.1f %%", "between", 1e3 * rest / steps, 100.0 * rest / seconds_));
    return out;
}

}  // namespace uipe::unlearn
