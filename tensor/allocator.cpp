#include "tensor/allocator.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "tensor/cpu/arena.h"
#include "tensor/profile.h"
#ifdef UIPE_CUDA
#include "tensor/cuda/runtime.h"
#endif

namespace uipe::tensor {
namespace {

std::atomic<bool> poison{false};
thread_local MemoryClass current = MemoryClass::activations;
thread_local bool host_in_plan = false;

#if defined(__SANITIZE_ADDRESS__)
constexpr bool caching = false;  // exact sizes and immediate frees, so that the sanitizer sees every stray access
#else
constexpr bool caching = true;
#endif

/// Up to this size, requests are rounded up to an eighth of their power of two and served from blocks of that size
/// alone, cut from slabs: among the large blocks, they would keep neighbours from merging.
constexpr std::size_t small = std::size_t{1} << 15;
constexpr std::size_t slab = std::size_t{1} << 20;

std::size_t rounded(std::size_t bytes) {
    if (!caching) return std::max<std::size_t>(bytes, 1);
    const std::size_t step = bytes < small ? std::max<std::size_t>(64, std::bit_floor(bytes) / 8) : 64;
    return std::max<std::size_t>(64, (bytes + step - 1) / step * step);
}

/// What lies between a large block and the next, beside its bytes. Tensors of one size would else begin a power of two
/// apart, and a kernel that reads several at once would have them fight for the same cache sets and memory banks.
std::size_t gap(std::size_t bytes) { return bytes >= std::size_t{4} << 20 ? (std::size_t{1} << 16) + 576 : 576; }

/// Counts what is taken, or given back.
void add(MemoryStats& stats, std::size_t bytes, MemoryClass c) {
    stats.in_use += bytes;
    stats.by_class[static_cast<std::size_t>(c)] += bytes;
    if (stats.in_use <= stats.peak) return;
    stats.peak = stats.in_use;
    stats.at_peak = stats.by_class;
    stats.place_of_peak = current_ranges();
}
void remove(MemoryStats& stats, std::size_t bytes, MemoryClass c) {
    stats.in_use -= bytes;
    stats.by_class[static_cast<std::size_t>(c)] -= bytes;
}
void start_new_peak(MemoryStats& stats) {
    stats.peak = stats.in_use;
    stats.at_peak = stats.by_class;
    stats.place_of_peak = current_ranges();
}

/// What every allocator counts.
class Counts {
public:
    MemoryStats stats() {
        const std::lock_guard lock(mutex_);
        return stats_;
    }

    void reset_peak() {
        const std::lock_guard lock(mutex_);
        start_new_peak(stats_);
    }

protected:
    std::mutex mutex_;
    MemoryStats stats_;
};

class CpuAllocator : public Counts {
public:
    void* take(std::size_t bytes, MemoryClass c) {
        const std::lock_guard lock(mutex_);
        void* block = !caching ? exact(bytes) : bytes <= small ? take_small(bytes) : arena_.take(bytes + gap(bytes));
        require(block != nullptr, "out of memory: ", bytes, " bytes asked, ", stats_.in_use,
                " in use; a smaller --micro-batch needs less");
        add(stats_, bytes, c);
        if (poison) std::memset(block, 0xFF, bytes);
        return block;
    }

    void give(void* block, std::size_t bytes, MemoryClass c) {
        const std::lock_guard lock(mutex_);
        remove(stats_, bytes, c);
        if (!caching)
            std::free(block);
        else if (bytes <= small)
            small_[bytes].push_back(block);
        else
            arena_.give(block);
    }

    void release() {
        const std::lock_guard lock(mutex_);
        arena_.trim();
    }

    MemoryStats stats() {
        const std::lock_guard lock(mutex_);
        MemoryStats out = stats_;
        out.reserved = caching ? arena_.extent() : stats_.in_use;
        out.allocations = caching ? arena_.growths() : 0;
        return out;
    }

private:
    static void* exact(std::size_t bytes) {
        void* block = nullptr;
        return ::posix_memalign(&block, 64, bytes) == 0 ? block : nullptr;
    }

    void* take_small(std::size_t bytes) {
        std::vector<void*>& list = small_[bytes];
        if (list.empty()) {
            auto* cut = static_cast<std::byte*>(arena_.take(slab));
            if (cut == nullptr) return nullptr;
            for (std::size_t at = slab / bytes; at-- > 0;) list.push_back(cut + at * bytes);
        }
        void* block = list.back();
        list.pop_back();
        return block;
    }

    cpu::Arena arena_;
    std::unordered_map<std::size_t, std::vector<void*>> small_;  // free blocks by size
};

CpuAllocator& allocator() {
    static auto* instance = new CpuAllocator;  // never destroyed: tensors in static storage may outlive it
    return *instance;
}

#ifdef UIPE_CUDA

/// Counts what is taken from the device's pool.
class CudaAllocator : public Counts {
public:
    void* take(std::size_t bytes, MemoryClass c) {
        void* block = cuda::take_memory(bytes);
        if (poison) cuda::set_bytes(block, 0xFF, bytes);
        const std::lock_guard lock(mutex_);
        add(stats_, bytes, c);
        if (const std::size_t size = cuda::pool_size(); size > stats_.reserved) {
            stats_.reserved = size;
            ++stats_.allocations;
        }
        return block;
    }

    void give(void* block, std::size_t bytes, MemoryClass c) {
        cuda::give_memory(block);
        const std::lock_guard lock(mutex_);
        remove(stats_, bytes, c);
    }

    void release() {
        cuda::trim_pool();
        const std::lock_guard lock(mutex_);
        stats_.reserved = cuda::pool_size();
    }
};

CudaAllocator& cuda_allocator() {
    static auto* instance = new CudaAllocator;
    return *instance;
}

#endif

/// Counts, and gives addresses that no processor can read, none of them twice.
class MetaAllocator : public Counts {
public:
    void* take(std::size_t bytes, MemoryClass c) {
        const std::lock_guard lock(mutex_);
        add(stats_, bytes, c);
        stats_.reserved = std::max(stats_.reserved, stats_.in_use);
        const std::uintptr_t here = next_;
        next_ += (bytes + 63) / 64 * 64;
        return reinterpret_cast<void*>(here);
    }

    void give(void* /*block*/, std::size_t bytes, MemoryClass c) {
        const std::lock_guard lock(mutex_);
        remove(stats_, bytes, c);
    }

    void release() {
        const std::lock_guard lock(mutex_);
        stats_.reserved = stats_.in_use;
    }

private:
    std::uintptr_t next_ = std::uintptr_t{1} << 60;
};

/// One for each device that a meta device stands for.
MetaAllocator& meta_allocator(Device device) {
    static auto* instances = new std::array<MetaAllocator, 2>;
    return (*instances)[stands_for(device).kind == Device::Kind::cpu ? 0 : 1];
}

/// Calls body with the allocator of `device`.
template <class Body>
decltype(auto) with_allocator(Device device, const Body& body) {
#ifdef UIPE_CUDA
    if (device.kind == Device::Kind::cuda) return body(cuda_allocator());
#endif
    if (device.kind == Device::Kind::meta) return body(meta_allocator(device));
    require_input(device.kind == Device::Kind::cpu, "this build has no CUDA backend; use --device cpu");
    return body(allocator());
}

}  // namespace

std::shared_ptr<void> allocate(std::size_t bytes, Device device) {
    require(bytes < std::size_t{1} << 62, "out of memory: ", bytes, " bytes asked");  // rounding must not wrap
    const std::shared_ptr<void> storage = with_allocator(device, [bytes, c = current](auto& from) {
        const std::size_t size = rounded(bytes);
        return std::shared_ptr<void>(from.take(size, c), [size, c, &from](void* p) { from.give(p, size, c); });
    });
    if (!host_in_plan || device.kind != Device::Kind::cpu) return storage;
    return {storage.get(), [storage, counted = allocate(bytes, meta(device))](void*) {}};
}

const char* name_of(MemoryClass c) {
    constexpr std::array<const char*, num_memory_classes> names{"weights",   "gradients",   "masters",  "moments",
                                                                "reference", "activations", "workspace"};
    return names[static_cast<std::size_t>(c)];
}

MemoryScope::MemoryScope(MemoryClass c) : before_(current) { current = c; }
MemoryScope::~MemoryScope() { current = before_; }

HostInPlan::HostInPlan() { host_in_plan = true; }
HostInPlan::~HostInPlan() { host_in_plan = false; }

MemoryStats memory_stats(Device device) {
    return with_allocator(device, [](auto& a) { return a.stats(); });
}

void reset_peak(Device device) {
    with_allocator(device, [](auto& a) { a.reset_peak(); });
}

void release_cache(Device device) {
    with_allocator(device, [](auto& a) { a.release(); });
}

void set_poison(bool on) { poison = on; }

}  // namespace uipe::tensor
