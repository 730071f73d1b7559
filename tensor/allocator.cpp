#include "tensor/allocator.h"

#include <atomic>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace uipe::tensor {
namespace {

std::atomic<bool> poison{false};

/// Sizes are rounded up to an eighth of their power of two, so that a cached block serves requests a little smaller.
std::size_t rounded(std::size_t bytes) {
    const std::size_t step = std::max<std::size_t>(64, std::bit_floor(bytes) / 8);
    return (bytes + step - 1) / step * step;
}

#if defined(__SANITIZE_ADDRESS__)
constexpr bool caching = false;  // exact sizes and immediate frees, so that the sanitizer sees every stray access
#else
constexpr bool caching = true;
#endif

class CpuAllocator {
public:
    void* take(std::size_t bytes) {
        const std::lock_guard lock(mutex_);
        auto& list = free_[bytes];
        void* block = nullptr;
        if (!list.empty()) {
            block = list.back();
            list.pop_back();
        } else {
            require(::posix_memalign(&block, 64, bytes) == 0, "out of memory: ", bytes, " bytes asked, ", stats_.in_use,
                    " in use; a smaller --micro-batch needs less");
            stats_.reserved += bytes;
            ++stats_.allocations;
        }
        stats_.in_use += bytes;
        stats_.peak = std::max(stats_.peak, stats_.in_use);
        return block;
    }

    void give(void* block, std::size_t bytes) {
        const std::lock_guard lock(mutex_);
        stats_.in_use -= bytes;
        if (caching) {
            free_[bytes].push_back(block);
        } else {
            stats_.reserved -= bytes;
            std::free(block);
        }
    }

    void release() {
        const std::lock_guard lock(mutex_);
        for (auto& [bytes, list] : free_) {
            for (void* block : list) {
                std::free(block);
                stats_.reserved -= bytes;
            }
            list.clear();
        }
    }

    MemoryStats stats() {
        const std::lock_guard lock(mutex_);
        return stats_;
    }

    void reset_peak() {
        const std::lock_guard lock(mutex_);
        stats_.peak = stats_.in_use;
    }

private:
    std::mutex mutex_;
    std::unordered_map<std::size_t, std::vector<void*>> free_;
    MemoryStats stats_;
};

CpuAllocator& cpu() {
    static auto* allocator = new CpuAllocator;  // never destroyed: tensors in static storage may outlive it
    return *allocator;
}

void require_cpu(Device device) {
    require_input(device.kind == Device::Kind::cpu, "this build has no CUDA backend; use --device cpu");
}

}  // namespace

std::shared_ptr<void> allocate(std::size_t bytes, Device device) {
    require_cpu(device);
    const std::size_t size = caching ? rounded(std::max<std::size_t>(bytes, 1)) : std::max<std::size_t>(bytes, 1);
    void* block = cpu().take(size);
    if (poison) std::memset(block, 0xFF, size);
    return {block, [size](void* p) { cpu().give(p, size); }};
}

MemoryStats memory_stats(Device device) {
    require_cpu(device);
    return cpu().stats();
}

void reset_peak(Device device) {
    require_cpu(device);
    cpu().reset_peak();
}

void release_cache(Device device) {
    require_cpu(device);
    cpu().release();
}

void set_poison(bool on) { poison = on; }

}  // namespace uipe::tensor
