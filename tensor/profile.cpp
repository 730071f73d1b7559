#include "tensor/profile.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>
#include <vector>

#include "tensor/ops.h"
#ifdef UIPE_CUDA
#include "tensor/cuda/runtime.h"
#endif

namespace uipe::tensor {
namespace {

/// Seconds between two points of the host's time, or of the device's queue.
class Watch {
public:
    explicit Watch(Device device) : cuda_(device.kind == Device::Kind::cuda) {
#ifdef UIPE_CUDA
        if (cuda_) watch_ = std::make_unique<cuda::Stopwatch>();
#endif
    }
    bool cuda() const { return cuda_; }
    void start() {
#ifdef UIPE_CUDA
        if (cuda_) return watch_->start();
#endif
        start_ = Clock::now();
    }
    void stop() {
#ifdef UIPE_CUDA
        if (cuda_) return watch_->stop();
#endif
        stop_ = Clock::now();
    }
    /// Waits for the device.
    double seconds() const {
#ifdef UIPE_CUDA
        if (cuda_) return watch_->seconds();
#endif
        return std::chrono::duration<double>(stop_ - start_).count();
    }

private:
    using Clock = std::chrono::steady_clock;
    bool cuda_;
    Clock::time_point start_, stop_;
#ifdef UIPE_CUDA
    std::unique_ptr<cuda::Stopwatch> watch_;
#endif
};

/// The profile that runs, and the watches of the device that have not been read yet.
struct Recorder {
    struct Entry {
        Family family;
        Watch watch;
    };
    Profile profile;
    Roofs roofs;
    std::vector<Entry> entries;
    std::vector<Watch> idle;  // of the device: making one takes longer than starting it
    bool timing = false;

    void read() {
        for (Entry& e : entries) {
            profile[static_cast<std::size_t>(e.family)].seconds += e.watch.seconds();
            if (e.watch.cuda()) idle.push_back(std::move(e.watch));
        }
        entries.clear();
    }
};

Recorder& recorder() {
    static auto* instance = new Recorder;  // never destroyed: watches must not outlive the driver
    return *instance;
}

}  // namespace

namespace profile {

bool on = false;

void Timer::start(Family family, Device device, const Work& work) {
    Recorder& r = recorder();
    if (r.timing) return;
    constexpr std::size_t most = 16384;  // watches; beyond, the device is waited for
    if (r.entries.size() >= most) r.read();
    FamilyTime& sum = r.profile[static_cast<std::size_t>(family)];
    ++sum.calls;
    sum.work.flops += work.flops;
    sum.work.bytes += work.bytes;
    if (r.roofs.flops > 0) sum.least += std::max(work.flops / r.roofs.flops, work.bytes / r.roofs.bytes);
    if (device.kind == Device::Kind::cuda && !r.idle.empty()) {
        r.entries.push_back({family, std::move(r.idle.back())});
        r.idle.pop_back();
    } else {
        r.entries.push_back({family, Watch(device)});
    }
    r.entries.back().watch.start();
    timing_ = r.timing = true;
}

void Timer::stop() {
    Recorder& r = recorder();
    r.timing = false;
    try {
        r.entries.back().watch.stop();
    } catch (const Error&) {  // the op has failed, and says why
        r.entries.pop_back();
    }
}

}  // namespace profile

const char* name_of(Family family) {
    constexpr std::array<const char*, num_families> names{"matmul", "attention", "norm",  "element-wise",
                                                          "heads",  "optimizer", "copies"};
    return names[static_cast<std::size_t>(family)];
}

void set_profiling(bool on, const Roofs& roofs) {
    profile::on = on;
    recorder().roofs = roofs;
}

Profile take_profile() {
    Recorder& r = recorder();
    r.read();
    return std::exchange(r.profile, {});
}

namespace {

/// Random numbers, but only a few rows are drawn: the host draws them.
Tensor random_matrix(std::int64_t n, DType dtype, Device device) {
    constexpr std::int64_t drawn = 64;
    const Tensor x = Tensor::empty({n, n}, dtype, device);
    fill_normal(x.rows(0, drawn), 1.0, 0, 0);
    for (std::int64_t row = drawn; row < n; row += drawn) copy(x.rows(row, row + drawn), x.rows(0, drawn));
    return x;
}

/// The shortest of several runs.
template <class Run>
double best_of(Device device, const Run& run) {
    double best = 1e300;
    for (int i = 0; i < 5; ++i) {
        Watch watch(device);
        watch.start();
        run();
        watch.stop();
        best = std::min(best, watch.seconds());
    }
    return best;
}

}  // namespace

Roofs measure_roofs(DType dtype, Device device) {
    Roofs roofs;
    constexpr double enough = 1e-2;  // seconds: longer work does not run at a higher rate
    double seconds = 0;
    for (std::int64_t n = 256; n <= 8192 && seconds < enough; n *= 2) {
        const Tensor a = random_matrix(n, dtype, device);
        const Tensor b = random_matrix(n, dtype, device);
        const Tensor y = Tensor::empty({n, n}, dtype, device);
        seconds = best_of(device, [&] { matmul(y, a, false, b, true); });
        const auto size = static_cast<double>(n);
        roofs.flops = std::max(roofs.flops, 2.0 * size * size * size / seconds);
    }
    constexpr std::int64_t bytes = std::int64_t{128} << 20;  // beyond any cache
    const Tensor x = Tensor::zeros({bytes / 4}, DType::f32, device);
    const Tensor y = Tensor::zeros({bytes / 4}, DType::f32, device);
    roofs.bytes = 2.0 * static_cast<double>(bytes) / best_of(device, [&] { copy(y, x); });
    return roofs;
}

namespace {
thread_local const Range* innermost = nullptr;
}  // namespace

Range::Range(const char* name) : name_(name), outer_(innermost) {
    innermost = this;
#ifdef UIPE_CUDA
    cuda::push_range(name);
#endif
}

Range::~Range() {
    innermost = outer_;
#ifdef UIPE_CUDA
    cuda::pop_range();
#endif
}

std::string current_ranges() {
    std::string text;
    for (const Range* range = innermost; range != nullptr; range = range->outer_)
        text = text.empty() ? range->name_ : cat(range->name_, ", ", text);
    return text;
}

}  // namespace uipe::tensor
