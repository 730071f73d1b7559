// A caching allocator for tensor storage, with the high-water mark that memory plans are checked against.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <string>

#include "tensor/tensor.h"

namespace uipe::tensor {

/// What memory is for. What no scope names is an activation: a step's values and their gradients. Masters: what f32
/// masters take beside bf16 weights; of an offloaded optimizer its copy of the weights, too.
enum class MemoryClass : std::uint8_t { weights, gradients, masters, moments, reference, activations, workspace };
constexpr std::size_t num_memory_classes = 7;
const char* name_of(MemoryClass c);
/// Bytes by class.
using MemoryByClass = std::array<std::size_t, num_memory_classes>;

/// While one lives, what its thread allocates counts under a class; the innermost decides.
class MemoryScope {
public:
    explicit MemoryScope(MemoryClass c);
    ~MemoryScope();
    MemoryScope(const MemoryScope&) = delete;
    MemoryScope& operator=(const MemoryScope&) = delete;

private:
    MemoryClass before_;
};

struct MemoryStats {
    std::size_t in_use = 0;       // bytes held by live tensors, as allocated
    std::size_t peak = 0;         // the largest `in_use` since the last reset_peak()
    std::size_t reserved = 0;     // bytes taken from the system: in use, free, and between
    std::size_t allocations = 0;  // how often the system was asked for more
    MemoryByClass by_class{};     // `in_use`
    MemoryByClass at_peak{};      // `peak`
    std::string place_of_peak;    // the ranges (profile.h) that it was reached in: "backward, layer 3"
};

/// Storage for `bytes` bytes, aligned to 64; it returns to the cache when the last owner lets go.
std::shared_ptr<void> allocate(std::size_t bytes, Device device);

/// The counts of a device's allocator now.
MemoryStats memory_stats(Device device = {});
/// Starts a new high-water mark from what is in use now.
void reset_peak(Device device = {});
/// While one lives, what its thread takes from the host counts on the meta device that stands for the CPU as well:
/// index tensors, which are real in a plan.
class HostInPlan {
public:
    HostInPlan();
    ~HostInPlan();
    HostInPlan(const HostInPlan&) = delete;
    HostInPlan& operator=(const HostInPlan&) = delete;
};

/// Gives cached, unused blocks back to the system.
void release_cache(Device device = {});

/// When on, fresh storage is filled with 0xFF bytes, so that reading an unwritten element shows as NaN. Off by default.
void set_poison(bool on);

}  // namespace uipe::tensor
