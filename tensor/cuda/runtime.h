// The device's memory, copies and stream: CUDA's (runtime_cuda.cu), or the host's under the emulator
// (runtime_emulated.cpp). All work is queued on one stream, in order, but what is put on a stream beside it; functions
// that wait say so.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <source_location>
#include <string>

#include "tensor/base/error.h"

#ifdef __CUDACC__
#include <cuda_runtime_api.h>
#endif

struct CUstream_st;

namespace uipe::tensor::cuda {

using Stream = CUstream_st*;

/// Empty when a device can be used, else what is missing, in words. The device is the first that is visible, or that of
/// this process's number among the ranks that a launcher started on this machine.
std::string what_is_missing();
/// Where in the machine the device is: two processes that are told the same share one.
std::string device_address();
/// "NVIDIA H200", or "emulator".
std::string device_name();
/// Bytes of memory of the device, and of those free now.
struct DeviceMemory {
    std::size_t total = 0, free = 0;
};
DeviceMemory device_memory();
/// 10 times the major version and the minor: 90 for H100 and H200. 0: the emulator.
int compute_capability();
/// How many blocks may run at once at least: multiprocessors.
int multiprocessors();

/// The stream of all work, or, within SideStream::run(), that one; the first call starts the device. InputError when
/// there is none.
Stream stream();
/// Waits until all queued work is done, but that of a SideStream.
void synchronize();

/// Queued copies. Host memory is read before upload() returns, by way of pinned buffers; small uploads do not wait for
/// the queue. download() waits.
void upload(void* device, const void* host, std::size_t bytes);
void download(void* host, const void* device, std::size_t bytes);
void copy_within(void* to, const void* from, std::size_t bytes);
void set_bytes(void* device, std::uint8_t value, std::size_t bytes);

/// A queued copy of at most 8 bytes to the host, to be read when later work has been queued behind it.
class Readback {
public:
    Readback(const void* device, std::size_t bytes);
    ~Readback();
    Readback(const Readback&) = delete;
    Readback& operator=(const Readback&) = delete;
    /// The bytes; waits for the copy, and for nothing that was queued after it.
    const void* wait() const;

private:
    void* data_ = nullptr;
    void* event_ = nullptr;
};

/// Pinned memory of the host, and one queued copy at a time between it and the device.
class Pinned {
public:
    explicit Pinned(std::size_t bytes);
    /// Waits for the last copy.
    ~Pinned();
    Pinned(const Pinned&) = delete;
    Pinned& operator=(const Pinned&) = delete;
    void* data() const { return data_; }
    /// Queue a copy here from the device, or from here to it; the one before must have been waited for.
    void fetch(const void* device, std::size_t bytes);
    void send(void* device, std::size_t bytes);
    /// Waits for the last copy, and for nothing that was queued after it. In an emulator that makes copies late, what
    /// was fetched is here after it, and not before.
    void wait();

private:
    void* data_ = nullptr;
    void* event_ = nullptr;
    std::function<void()> late_;
};

/// A stream of work that runs beside the first one, itself in order. Memory is the first stream's: what side work uses
/// must have been taken before it is queued, and not be given back before the first stream has joined it. In an
/// emulator that makes copies late, side work is done when it is waited for, and not before.
class SideStream {
public:
    using Mark = std::shared_ptr<void>;

    SideStream();
    /// Nothing is waited for.
    ~SideStream();
    SideStream(const SideStream&) = delete;
    SideStream& operator=(const SideStream&) = delete;

    /// Queues what work() queues: its launches, copies and calls with stream(). It begins after all that has been
    /// queued on the first stream. The mark is its end.
    Mark run(const std::function<void()>& work);
    /// What is queued on the first stream from here on begins after a mark.
    void join(const Mark& mark);
    /// The host waits until all work here is done.
    void synchronize();

private:
    struct State;
    std::unique_ptr<State> state_;
};

/// How often the host has waited for the device: in download(), Readback::wait() and synchronize(), and in upload()
/// where no pinned buffer was free.
std::size_t waits();

/// Seconds on the device between two marks in the queue.
class Stopwatch {
public:
    Stopwatch();
    ~Stopwatch();
    Stopwatch(const Stopwatch&) = delete;
    Stopwatch& operator=(const Stopwatch&) = delete;
    void start();
    void stop();
    /// Waits for the second mark.
    double seconds();

private:
    void* events_[2] = {};
};

/// Between them, what is queued has a name for profilers. They nest.
void push_range(const char* name);
/// How many have begun.
std::size_t ranges();
void pop_range();

/// Memory of the device, from its stream-ordered pool, which keeps what comes back: a block may be given back while
/// queued work still uses it. Error when there is not enough.
void* take_memory(std::size_t bytes);
void give_memory(void* block);
/// Bytes the pool holds, in use or not.
std::size_t pool_size();
/// Lets the pool give back what is not in use.
void trim_pool();

#ifdef __CUDACC__
/// Throws Error, with the place and CUDA's own words, unless the call succeeded.
void check(cudaError_t result, const std::source_location& where = std::source_location::current());
#endif

}  // namespace uipe::tensor::cuda
