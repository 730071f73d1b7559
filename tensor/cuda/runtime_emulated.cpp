// runtime.h on the host, for the emulator: memory is the host's, and what is queued is done at once.
#ifdef UIPE_EMULATED

#include <chrono>
#include <cstdlib>
#include <cstring>

#include "tensor/cuda/device/emulator.h"
#include "tensor/cuda/runtime.h"

namespace uipe::tensor::cuda {

std::string what_is_missing() { return {}; }
std::string device_name() { return "emulator"; }
DeviceMemory device_memory() { return {std::size_t{1} << 33, std::size_t{1} << 33}; }
int multiprocessors() { return 4; }

Stream stream() { return nullptr; }
void synchronize() {}

void upload(void* device, const void* host, std::size_t bytes) { std::memcpy(device, host, bytes); }
void download(void* host, const void* device, std::size_t bytes) { std::memcpy(host, device, bytes); }
void copy_within(void* to, const void* from, std::size_t bytes) { std::memcpy(to, from, bytes); }
void set_bytes(void* device, std::uint8_t value, std::size_t bytes) { std::memset(device, value, bytes); }

namespace {
double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }
}  // namespace

Stopwatch::Stopwatch() : events_{new double(0.0), new double(0.0)} {}
Stopwatch::~Stopwatch() {
    for (void* event : events_) delete static_cast<double*>(event);
}
void Stopwatch::start() { *static_cast<double*>(events_[0]) = now(); }
void Stopwatch::stop() { *static_cast<double*>(events_[1]) = now(); }
double Stopwatch::seconds() { return *static_cast<double*>(events_[1]) - *static_cast<double*>(events_[0]); }

Range::Range(const char* /*name*/) {}
Range::~Range() = default;

// Exactly the bytes asked for, so that AddressSanitizer sees what lies beyond them.
void* take_memory(std::size_t bytes) {
    void* block = nullptr;
    require(::posix_memalign(&block, 256, bytes == 0 ? 1 : bytes) == 0, "out of memory: ", bytes, " bytes asked");
    std::memset(block, emulator::options().poison, bytes);
    return block;
}
void give_memory(void* block) { std::free(block); }
std::size_t pool_size() { return 0; }
void trim_pool() {}

}  // namespace uipe::tensor::cuda

#endif
