// A caching allocator for tensor storage, with the high-water mark that memory plans are checked against.
#pragma once

#include <cstddef>
#include <memory>

#include "tensor/tensor.h"

namespace uipe::tensor {

struct MemoryStats {
    std::size_t in_use = 0;       // bytes held by live tensors, as allocated
    std::size_t peak = 0;         // the largest `in_use` since the last reset_peak()
    std::size_t reserved = 0;     // bytes taken from the system: in use, free, and between
    std::size_t allocations = 0;  // how often the system was asked for more
};

/// Storage for `bytes` bytes, aligned to 64; it returns to the cache when the last owner lets go.
std::shared_ptr<void> allocate(std::size_t bytes, Device device);

/// The counts of a device's allocator now.
MemoryStats memory_stats(Device device = {});
/// Starts a new high-water mark from what is in use now.
void reset_peak(Device device = {});
/// Gives cached, unused blocks back to the system.
void release_cache(Device device = {});

/// When on, fresh storage is filled with 0xFF bytes, so that reading an unwritten element shows as NaN. Off by default.
void set_poison(bool on);

}  // namespace uipe::tensor
