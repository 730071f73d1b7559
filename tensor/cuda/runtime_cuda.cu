// runtime.h on a GPU.
#ifdef __CUDACC__

#include <nvtx3/nvToolsExt.h>

#include <array>
#include <atomic>
#include <cstring>
#include <mutex>
#include <vector>

#include "tensor/comm/launch.h"
#include "tensor/cuda/runtime.h"

namespace uipe::tensor::cuda {

void check(cudaError_t result, const std::source_location& where) {
    if (result == cudaSuccess) return;
    const std::string file = where.file_name();
    throw Error(cat("CUDA: ", cudaGetErrorString(result), " (", cudaGetErrorName(result), ") at ",
                    file.substr(file.find_last_of('/') + 1), ":", where.line()));
}

namespace {

__global__ void probe() {}

/// The device of this process among `count` that are visible.
int device_index(int count) { return count > 0 ? launched().local_rank % count : 0; }

}  // namespace

std::string what_is_missing() {
    static const std::string answer = []() -> std::string {
        int count = 0;  // left as it is when there is no driver
        const cudaError_t result = cudaGetDeviceCount(&count);
        if (result == cudaErrorInsufficientDriver)
            return "no NVIDIA driver is loaded, or one older than this program's CUDA " +
                   std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10);
        if (result != cudaSuccess) return cudaGetErrorString(result);
        if (count == 0) return "no NVIDIA GPU is visible (CUDA_VISIBLE_DEVICES?)";
        check(cudaSetDevice(device_index(count)));
        cudaDeviceProp properties{};
        check(cudaGetDeviceProperties(&properties, device_index(count)));
        if (properties.major < 8)
            return cat(properties.name, " has compute capability ", properties.major, ".", properties.minor,
                       "; 8.0 (A100) or newer is needed");
        cudaFuncAttributes attributes{};
        if (cudaFuncGetAttributes(&attributes, probe) != cudaSuccess) {
            (void)cudaGetLastError();
            return cat("this program holds no code for ", properties.name, " (compute capability ", properties.major,
                       ".", properties.minor,
                       "); build it with UIPE_CMAKE_ARGS=-DCMAKE_CUDA_ARCHITECTURES=", properties.major,
                       properties.minor);
        }
        return {};
    }();
    return answer;
}

namespace {

/// What every call needs, made at first use.
class Context {
public:
    static Context& instance() {
        static Context context;
        return context;
    }

    cudaStream_t stream = nullptr;
    cudaStream_t current = nullptr;  // another one within SideStream::run()
    cudaMemPool_t pool = nullptr;
    cudaDeviceProp properties{};

    std::atomic<std::size_t> waits{0};

    /// A pinned buffer of at least `bytes` that no queued copy reads any more. They are used in turns: two for large
    /// copies, and for small ones as many as the steps that are queued at once need, or the host would wait for these.
    struct Pinned {
        void* data = nullptr;
        std::size_t size = 0;
        cudaEvent_t done = nullptr;
    };
    Pinned& pinned(std::size_t bytes) {
        Pinned& buffer = bytes <= small ? small_[turn_small_++ % small_.size()] : large_[turn_large_++ % large_.size()];
        if (cudaEventQuery(buffer.done) == cudaErrorNotReady) ++waits;
        check(cudaEventSynchronize(buffer.done));
        if (buffer.size < bytes) {
            if (buffer.data != nullptr) check(cudaFreeHost(buffer.data));
            buffer.data = nullptr;
            buffer.size = 0;
            ++waits;  // the call waits for the device
            check(cudaMallocHost(&buffer.data, bytes));
            buffer.size = bytes;
        }
        return buffer;
    }

    /// A place that a number can be copied to, and the event that says when it is there.
    struct Place {
        void* data = nullptr;
        cudaEvent_t done = nullptr;
    };
    Place take_place() {
        const std::lock_guard lock(mutex_);
        if (places_.empty()) {
            constexpr int count = 64;
            void* page = nullptr;
            check(cudaMallocHost(&page, count * sizeof(double)));
            for (int i = 0; i < count; ++i) {
                places_.push_back({static_cast<double*>(page) + i, nullptr});
                check(cudaEventCreateWithFlags(&places_.back().done, cudaEventDisableTiming));
            }
        }
        const Place place = places_.back();
        places_.pop_back();
        return place;
    }
    void give_place(const Place& place) {
        const std::lock_guard lock(mutex_);
        places_.push_back(place);
    }

private:
    Context() {
        require_input(what_is_missing().empty(), "--device cuda: ", what_is_missing());
        int count = 0;
        check(cudaGetDeviceCount(&count));
        const int device = device_index(count);
        check(cudaSetDevice(device));
        check(cudaGetDeviceProperties(&properties, device));
        check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
        current = stream;
        check(cudaDeviceGetDefaultMemPool(&pool, device));
        std::uint64_t keep_all = UINT64_MAX;
        check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep_all));
        void* pages = nullptr;
        check(cudaMallocHost(&pages, small_.size() * small));
        for (std::size_t i = 0; i < small_.size(); ++i) {
            small_[i].data = static_cast<std::byte*>(pages) + i * small;
            small_[i].size = small;
            check(cudaEventCreateWithFlags(&small_[i].done, cudaEventDisableTiming));
        }
        for (Pinned& buffer : large_) check(cudaEventCreateWithFlags(&buffer.done, cudaEventDisableTiming));
    }

    static constexpr std::size_t small = std::size_t{1} << 17;
    std::array<Pinned, 256> small_;
    std::array<Pinned, 2> large_;
    std::size_t turn_small_ = 0, turn_large_ = 0;
    std::mutex mutex_;
    std::vector<Place> places_;  // free
};

Context& context() { return Context::instance(); }

constexpr std::size_t most_at_once = std::size_t{32} << 20;  // of a copy through pinned memory

}  // namespace

std::string device_name() { return context().properties.name; }
std::string device_address() {
    (void)context();
    int device = 0;
    check(cudaGetDevice(&device));
    std::array<char, 32> bus{};
    check(cudaDeviceGetPCIBusId(bus.data(), static_cast<int>(bus.size()), device));
    return bus.data();
}
DeviceMemory device_memory() {
    (void)context();
    DeviceMemory m;
    check(cudaMemGetInfo(&m.free, &m.total));
    return m;
}
int compute_capability() { return 10 * context().properties.major + context().properties.minor; }
int multiprocessors() { return context().properties.multiProcessorCount; }

Stream stream() { return context().current; }
void synchronize() {
    ++context().waits;
    check(cudaStreamSynchronize(context().stream));
}
std::size_t waits() { return context().waits; }

struct SideStream::State {
    cudaStream_t stream = nullptr;
};

namespace {

/// A place in the queue of a stream.
std::shared_ptr<void> mark_of(cudaStream_t stream) {
    cudaEvent_t event = nullptr;
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    std::shared_ptr<void> mark(event, [](void* e) { (void)cudaEventDestroy(static_cast<cudaEvent_t>(e)); });
    check(cudaEventRecord(event, stream));
    return mark;
}

void wait_for(cudaStream_t stream, const std::shared_ptr<void>& mark) {
    check(cudaStreamWaitEvent(stream, static_cast<cudaEvent_t>(mark.get()), 0));
}

}  // namespace

SideStream::SideStream() : state_(std::make_unique<State>()) {
    (void)context();
    int least = 0;
    int most = 0;
    check(cudaDeviceGetStreamPriorityRange(&least, &most));
    // First in turn for the processors: it needs few, and others wait for what it brings.
    check(cudaStreamCreateWithPriority(&state_->stream, cudaStreamNonBlocking, most));
}
SideStream::~SideStream() { (void)cudaStreamDestroy(state_->stream); }
SideStream::Mark SideStream::run(const std::function<void()>& work) {
    wait_for(state_->stream, mark_of(context().stream));
    const struct Scope {
        explicit Scope(cudaStream_t s) { context().current = s; }
        ~Scope() { context().current = context().stream; }
    } scope(state_->stream);
    work();
    return mark_of(state_->stream);
}
void SideStream::join(const Mark& mark) { wait_for(context().stream, mark); }
void SideStream::synchronize() {
    ++context().waits;
    check(cudaStreamSynchronize(state_->stream));
}

void upload(void* device, const void* host, std::size_t bytes) {
    for (std::size_t at = 0; at < bytes; at += most_at_once) {
        const std::size_t n = bytes - at < most_at_once ? bytes - at : most_at_once;
        Context::Pinned& buffer = context().pinned(n);
        std::memcpy(buffer.data, static_cast<const std::byte*>(host) + at, n);
        check(cudaMemcpyAsync(static_cast<std::byte*>(device) + at, buffer.data, n, cudaMemcpyHostToDevice, stream()));
        check(cudaEventRecord(buffer.done, stream()));
    }
}

void download(void* host, const void* device, std::size_t bytes) {
    for (std::size_t at = 0; at < bytes; at += most_at_once) {
        const std::size_t n = bytes - at < most_at_once ? bytes - at : most_at_once;
        Context::Pinned& buffer = context().pinned(n);
        check(cudaMemcpyAsync(buffer.data, static_cast<const std::byte*>(device) + at, n, cudaMemcpyDeviceToHost,
                              stream()));
        synchronize();
        std::memcpy(static_cast<std::byte*>(host) + at, buffer.data, n);
    }
}

void copy_within(void* to, const void* from, std::size_t bytes) {
    if (bytes > 0) check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream()));
}

void set_bytes(void* device, std::uint8_t value, std::size_t bytes) {
    if (bytes > 0) check(cudaMemsetAsync(device, value, bytes, stream()));
}

Readback::Readback(const void* device, std::size_t bytes) {
    require(bytes <= sizeof(double), "a readback of ", bytes, " bytes");
    const Context::Place place = context().take_place();
    data_ = place.data;
    event_ = place.done;
    check(cudaMemcpyAsync(data_, device, bytes, cudaMemcpyDeviceToHost, stream()));
    check(cudaEventRecord(place.done, stream()));
}
Readback::~Readback() {
    // Not before the copy has been made: the place goes to another, even when nobody read this one.
    (void)cudaEventSynchronize(static_cast<cudaEvent_t>(event_));
    context().give_place({data_, static_cast<cudaEvent_t>(event_)});
}
const void* Readback::wait() const {
    ++context().waits;
    check(cudaEventSynchronize(static_cast<cudaEvent_t>(event_)));
    return data_;
}

Pinned::Pinned(std::size_t bytes) {
    (void)context();
    ++context().waits;  // the call waits for the device
    check(cudaMallocHost(&data_, bytes == 0 ? 1 : bytes));
    cudaEvent_t made = nullptr;
    check(cudaEventCreateWithFlags(&made, cudaEventDisableTiming));
    event_ = made;
}
Pinned::~Pinned() {
    (void)cudaEventSynchronize(static_cast<cudaEvent_t>(event_));
    (void)cudaEventDestroy(static_cast<cudaEvent_t>(event_));
    (void)cudaFreeHost(data_);
}
void Pinned::fetch(const void* device, std::size_t bytes) {
    check(cudaMemcpyAsync(data_, device, bytes, cudaMemcpyDeviceToHost, stream()));
    check(cudaEventRecord(static_cast<cudaEvent_t>(event_), stream()));
}
void Pinned::send(void* device, std::size_t bytes) {
    check(cudaMemcpyAsync(device, data_, bytes, cudaMemcpyHostToDevice, stream()));
    check(cudaEventRecord(static_cast<cudaEvent_t>(event_), stream()));
}
void Pinned::wait() {
    ++context().waits;
    check(cudaEventSynchronize(static_cast<cudaEvent_t>(event_)));
}

Stopwatch::Stopwatch() {
    for (void*& event : events_) {
        cudaEvent_t made = nullptr;
        check(cudaEventCreate(&made));
        event = made;
    }
}
Stopwatch::~Stopwatch() {
    for (void* event : events_) cudaEventDestroy(static_cast<cudaEvent_t>(event));
}
void Stopwatch::start() { check(cudaEventRecord(static_cast<cudaEvent_t>(events_[0]), stream())); }
void Stopwatch::stop() { check(cudaEventRecord(static_cast<cudaEvent_t>(events_[1]), stream())); }
double Stopwatch::seconds() {
    check(cudaEventSynchronize(static_cast<cudaEvent_t>(events_[1])));
    float ms = 0;
    check(cudaEventElapsedTime(&ms, static_cast<cudaEvent_t>(events_[0]), static_cast<cudaEvent_t>(events_[1])));
    return ms * 1e-3;
}

namespace {
std::atomic<std::size_t> ranges_begun{0};
}  // namespace

void push_range(const char* name) {
    ++ranges_begun;
    nvtxRangePushA(name);
}
std::size_t ranges() { return ranges_begun; }
void pop_range() { nvtxRangePop(); }

void* take_memory(std::size_t bytes) {
    void* block = nullptr;
    const cudaError_t result =
        cudaMallocFromPoolAsync(&block, bytes == 0 ? 1 : bytes, context().pool, context().stream);
    if (result == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        const DeviceMemory memory = device_memory();
        throw Error(cat("out of memory on ", device_name(), ": ", bytes, " bytes asked, ", memory.free, " of ",
                        memory.total, " free; a smaller --micro-batch or --recompute needs less"));
    }
    check(result);
    return block;
}
void give_memory(void* block) {
    // Runs in destructors, at exit too, when the driver may be gone: then the memory is gone as well.
    (void)cudaFreeAsync(block, context().stream);
}
std::size_t pool_size() {
    std::uint64_t bytes = 0;
    check(cudaMemPoolGetAttribute(context().pool, cudaMemPoolAttrReservedMemCurrent, &bytes));
    return bytes;
}
void trim_pool() {
    synchronize();
    check(cudaMemPoolTrimTo(context().pool, 0));
}

}  // namespace uipe::tensor::cuda

#endif
