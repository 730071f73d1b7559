// runtime.h on the host, for the emulator: memory is the host's, and what is queued is done at once.
#ifdef UIPE_EMULATED

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <unordered_map>

#include "tensor/cuda/device/emulator.h"
#include "tensor/cuda/runtime.h"

namespace uipe::tensor::cuda {

std::string what_is_missing() { return {}; }
std::string device_name() { return "emulator"; }
std::string device_address() { return cat("emulator of process ", ::getpid()); }
DeviceMemory device_memory() { return {std::size_t{1} << 33, std::size_t{1} << 33}; }
int compute_capability() { return 0; }
int multiprocessors() { return 4; }

namespace {
std::atomic<std::size_t> waits_done{0};
std::atomic<std::size_t> ranges_begun{0};
}  // namespace

Stream stream() { return nullptr; }
void synchronize() { ++waits_done; }
std::size_t waits() { return waits_done; }

void upload(void* device, const void* host, std::size_t bytes) {
    if (bytes != 0) std::memcpy(device, host, bytes);  // nothing may be at no address
}
void download(void* host, const void* device, std::size_t bytes) {
    ++waits_done;
    if (bytes != 0) std::memcpy(host, device, bytes);
}
void copy_within(void* to, const void* from, std::size_t bytes) { std::memcpy(to, from, bytes); }
void set_bytes(void* device, std::uint8_t value, std::size_t bytes) { std::memset(device, value, bytes); }

Readback::Readback(const void* device, std::size_t bytes) : data_(new double(0.0)) {
    require(bytes <= sizeof(double), "a readback of ", bytes, " bytes");
    std::memcpy(data_, device, bytes);
}
Readback::~Readback() { delete static_cast<double*>(data_); }
const void* Readback::wait() const {
    ++waits_done;
    return data_;
}

Pinned::Pinned(std::size_t bytes) {
    require(::posix_memalign(&data_, 256, bytes == 0 ? 1 : bytes) == 0, "out of memory: ", bytes, " bytes asked");
    std::memset(data_, emulator::options().poison, bytes);
}
Pinned::~Pinned() { std::free(data_); }
void Pinned::fetch(const void* device, std::size_t bytes) {
    late_ = [this, device, bytes] { std::memcpy(data_, device, bytes); };
    if (!emulator::options().late_copies) Pinned::wait();
}
void Pinned::send(void* device, std::size_t bytes) { std::memcpy(device, data_, bytes); }
void Pinned::wait() {
    ++waits_done;
    if (late_) late_();
    late_ = nullptr;
}

namespace {
double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }
}  // namespace

/// Jobs that have not been done: all of them while copies are late, else none.
struct SideStream::State {
    std::deque<std::function<void()>> jobs;
    std::uint64_t queued = 0, done = 0;

    void work_until(std::uint64_t count) {
        for (; done < count; ++done) {
            const std::function<void()> job = std::move(jobs.front());
            jobs.pop_front();
            job();
        }
    }
};

SideStream::SideStream() : state_(std::make_unique<State>()) {}
SideStream::~SideStream() = default;
SideStream::Mark SideStream::run(const std::function<void()>& work) {
    state_->jobs.push_back(work);
    ++state_->queued;
    if (!emulator::options().late_copies) state_->work_until(state_->queued);
    return std::make_shared<std::uint64_t>(state_->queued);
}
void SideStream::join(const Mark& mark) { state_->work_until(*static_cast<const std::uint64_t*>(mark.get())); }
void SideStream::synchronize() {
    ++waits_done;
    state_->work_until(state_->queued);
}

Stopwatch::Stopwatch() : events_{new double(0.0), new double(0.0)} {}
Stopwatch::~Stopwatch() {
    for (void* event : events_) delete static_cast<double*>(event);
}
void Stopwatch::start() { *static_cast<double*>(events_[0]) = now(); }
void Stopwatch::stop() { *static_cast<double*>(events_[1]) = now(); }
double Stopwatch::seconds() { return *static_cast<double*>(events_[1]) - *static_cast<double*>(events_[0]); }

void push_range(const char* /*name*/) { ++ranges_begun; }
std::size_t ranges() { return ranges_begun; }
void pop_range() {}

namespace {

/// What is in use; the pool is counted as if it grew to the most that ever was, and no further.
struct Pool {
    std::mutex mutex;
    std::unordered_map<void*, std::size_t> blocks;
    std::size_t in_use = 0, size = 0;
};
Pool& pool() {
    static auto* instance = new Pool;  // never destroyed: tensors in static storage may outlive it
    return *instance;
}

}  // namespace

// Exactly the bytes asked for, so that AddressSanitizer sees what lies beyond them.
void* take_memory(std::size_t bytes) {
    void* block = nullptr;
    require(::posix_memalign(&block, 256, bytes == 0 ? 1 : bytes) == 0, "out of memory: ", bytes, " bytes asked");
    std::memset(block, emulator::options().poison, bytes);
    Pool& p = pool();
    const std::lock_guard lock(p.mutex);
    p.blocks[block] = bytes;
    p.in_use += bytes;
    p.size = std::max(p.size, p.in_use);
    return block;
}
void give_memory(void* block) {
    {
        Pool& p = pool();
        const std::lock_guard lock(p.mutex);
        p.in_use -= p.blocks.at(block);
        p.blocks.erase(block);
    }
    std::free(block);
}
std::size_t pool_size() {
    const std::lock_guard lock(pool().mutex);
    return pool().size;
}
void trim_pool() {
    const std::lock_guard lock(pool().mutex);
    pool().size = pool().in_use;
}

}  // namespace uipe::tensor::cuda

#endif
