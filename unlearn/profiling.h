// `--profile`: where the time of training steps goes, by family of ops.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "tensor/profile.h"

namespace uipe::unlearn {

/// Steps of a run that are timed: between resume() and pause(), when no step is in flight.
class Profiling {
public:
    /// Of `steps` steps; 0: of all. Roofs are measured now, with products in `dtype`.
    Profiling(std::int64_t steps, tensor::DType dtype, tensor::Device device);
    ~Profiling() { tensor::set_profiling(false); }
    Profiling(const Profiling&) = delete;
    Profiling& operator=(const Profiling&) = delete;

    /// Whether more steps are wanted.
    bool wanted() const { return most_ == 0 || steps_ < most_; }
    void resume();
    void pause(std::int64_t steps);

    /// A table: milliseconds, share of the step, calls, and rates as shares of the roofs, a family a line. What is in
    /// none of them is the host's work, and the device's waits for it.
    std::vector<std::string> table() const;

private:
    using Clock = std::chrono::steady_clock;
    std::int64_t most_;
    std::string device_;
    tensor::Roofs roofs_;
    tensor::Profile sum_;
    std::int64_t steps_ = 0;
    double seconds_ = 0;
    Clock::time_point start_;
};

}  // namespace uipe::unlearn
