// Where the time goes. While a profile runs, every op of ops.h is timed by the clock of its device, and the arithmetic
// and the memory that it needs are counted. Off, an op pays for one test of a flag.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "tensor/tensor.h"

namespace uipe::tensor {

enum class Family : std::uint8_t { matmul, attention, norm, elementwise, heads, optimizer, copies };
constexpr std::size_t num_families = 7;
const char* name_of(Family family);

/// What an op has to do at least: floating-point operations, and bytes to read and write.
struct Work {
    double flops = 0, bytes = 0;
};

struct FamilyTime {
    std::int64_t calls = 0;
    double seconds = 0;
    Work work;
    double least = 0;  // seconds at the roofs that set_profiling() was given: each op the longer of its two
};
using Profile = std::array<FamilyTime, num_families>;

/// Rates that no op exceeds, in FLOP/s and bytes/s.
struct Roofs {
    double flops = 0, bytes = 0;
};

/// From now on, or no longer. What has been measured stays.
void set_profiling(bool on, const Roofs& roofs = {});
/// What was measured since the last call, by family; waits for the device.
Profile take_profile();

/// Those of a large product of random matrices in `dtype` and of a large copy, the best of several, measured now.
Roofs measure_roofs(DType dtype, Device device);

namespace profile {

extern bool on;

/// Times its scope on `device`, when a profile runs. Within another one's scope it measures nothing.
class Timer {
public:
    template <class Count>
    Timer(Family family, Device device, const Count& work) {
        if (on) start(family, device, work());
    }
    ~Timer() {
        if (timing_) stop();
    }
    Timer(const Timer&) = delete;
    Timer& operator=(const Timer&) = delete;

private:
    void start(Family family, Device device, const Work& work);
    void stop();
    bool timing_ = false;
};

}  // namespace profile

/// Names what its thread computes during its life, for the place of a peak of memory and for profilers of the device
/// (NVTX). `name` must outlive it.
class Range {
public:
    explicit Range(const char* name);
    ~Range();
    Range(const Range&) = delete;
    Range& operator=(const Range&) = delete;

private:
    friend std::string current_ranges();
    const char* name_;
    const Range* outer_;
};

/// The names of this thread's ranges, outermost first: "backward, layer 3".
std::string current_ranges();

}  // namespace uipe::tensor
