#include "tensor/tensor.h"

#include <algorithm>
#include <cstring>

#include "tensor/allocator.h"
#include "tensor/ops.h"
#include "tensor/parallel.h"
#include "tensor/profile.h"
#ifdef UIPE_CUDA
#include "tensor/cuda/runtime.h"
#endif

namespace uipe::tensor {
namespace {

constexpr const char* released =
    "a tensor without elements is read: it was made by its shape alone, or its weight is with other ranks now (ZeRO "
    "stage 3)";

/// Copies between any two devices.
void move_bytes(void* to, Device to_device, const void* from, Device from_device, std::size_t bytes) {
    if (bytes == 0) return;
    const profile::Timer timer(Family::copies, from_device.kind == Device::Kind::cuda ? from_device : to_device, [&] {
        return Work{0.0, static_cast<double>(bytes)};
    });
    require(from != nullptr || bytes == 0, released);
    if (to_device.kind == Device::Kind::meta) return;
    if (from_device.kind == Device::Kind::meta) {
        std::memset(to, 0, bytes);
        return;
    }
    const bool down = from_device.kind == Device::Kind::cuda;
    const bool up = to_device.kind == Device::Kind::cuda;
    if (!up && !down) {
        std::memcpy(to, from, bytes);
        return;
    }
#ifdef UIPE_CUDA
    if (up && down)
        cuda::copy_within(to, from, bytes);
    else if (up)
        cuda::upload(to, from, bytes);
    else
        cuda::download(to, from, bytes);
#endif
}

}  // namespace

const char* name_of(Device device) {
    if (device.kind == Device::Kind::meta) return "meta";
    return device.kind == Device::Kind::cpu ? "cpu" : "cuda";
}

Device meta(Device of) { return {Device::Kind::meta, static_cast<int>(stands_for(of).kind)}; }

Device stands_for(Device device) {
    if (device.kind != Device::Kind::meta) return device;
    return {static_cast<Device::Kind>(device.index), 0};
}

Device device_named(const std::string& name) {
    if (name == "cpu") return {};
    require_input(name == "cuda", "unknown --device ", name, "; known: cpu, cuda");
#ifdef UIPE_CUDA
    const std::string missing = cuda::what_is_missing();
    require_input(missing.empty(), "--device cuda: ", missing);
    return {Device::Kind::cuda};
#else
    throw InputError("--device cuda: this program was built without CUDA; ./run build cuda builds it with");
#endif
}

std::string description(Device device) {
#ifdef UIPE_CUDA
    if (device.kind == Device::Kind::cuda) {
        const std::string name = cat("cuda: ", cuda::device_name());
        return name == "cuda: emulator" ? name : cat(name, ", ", cuda::device_memory().total >> 30, " GiB");
    }
#endif
    return cat(name_of(device), ": ", num_threads(), num_threads() == 1 ? " thread" : " threads");
}

std::int64_t numel(const Shape& shape) {
    std::int64_t n = 1;
    for (const std::int64_t d : shape) {
        require(d >= 0, "negative dimension in shape ", to_string(shape));
        require(!__builtin_mul_overflow(n, d, &n), "shape ", to_string(shape), " overflows");
    }
    return n;
}

std::string to_string(const Shape& shape) {
    std::string text = "[";
    for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? "," : "") + std::to_string(shape[i]);
    return text + "]";
}

Tensor Tensor::empty(Shape shape, DType dtype, Device device) {
    Tensor t;
    t.numel_ = tensor::numel(shape);
    t.shape_ = std::move(shape);
    t.dtype_ = dtype;
    t.device_ = dtype == DType::i32 ? Device{} : device;
    auto storage = allocate(t.nbytes(), t.device_);
    t.data_ = storage.get();
    t.storage_ = std::move(storage);
    if (dtype == DType::i32) {
        t.storage_bytes_ = t.nbytes();
        t.device_copy_ = std::make_shared<std::shared_ptr<void>>();
    }
    return t;
}

Tensor Tensor::zeros(Shape shape, DType dtype, Device device) { return full(std::move(shape), dtype, 0.0, device); }

Tensor Tensor::full(Shape shape, DType dtype, double value, Device device) {
    Tensor t = empty(std::move(shape), dtype, device);
    fill(t, value);
    return t;
}

template <class T>
Tensor Tensor::from(const std::vector<T>& values, Shape shape) {
    if (shape.empty()) shape = {static_cast<std::int64_t>(values.size())};
    Tensor t = empty(std::move(shape), dtype_of<T>);
    require(static_cast<std::size_t>(t.numel()) == values.size(), "shape ", to_string(t.shape()), " from ",
            values.size(), " values");
    std::copy(values.begin(), values.end(), t.data<T>());
    return t;
}

Tensor Tensor::borrow(const void* data, Shape shape, DType dtype, std::shared_ptr<const void> owner) {
    if (dtype == DType::i32) {
        const Tensor t = empty(std::move(shape), dtype);
        if (t.nbytes() > 0) std::memcpy(t.data_, data, t.nbytes());
        return t;
    }
    Tensor t;
    t.numel_ = tensor::numel(shape);
    t.shape_ = std::move(shape);
    t.dtype_ = dtype;
    t.storage_ = std::move(owner);
    t.data_ = const_cast<void*>(data);
    return t;
}

Tensor Tensor::uncounted(Shape shape, DType dtype, Device device) {
    require(device.kind == Device::Kind::meta && dtype != DType::i32, "an uncounted tensor of ", name_of(dtype), " on ",
            name_of(device));
    Tensor t = borrow(reinterpret_cast<const void*>(std::uintptr_t{1} << 60), std::move(shape), dtype, nullptr);
    t.device_ = device;
    return t;
}

Tensor Tensor::view(Shape shape) const {
    require(tensor::numel(shape) == numel_, "view of ", to_string(shape_), " as ", to_string(shape));
    Tensor t = *this;
    t.shape_ = std::move(shape);
    return t;
}

Tensor Tensor::rows(std::int64_t begin, std::int64_t end) const {
    require(rank() >= 1 && 0 <= begin && begin <= end && end <= dim(0), "rows ", begin, " to ", end, " of ",
            to_string(shape_));
    require(defined() || numel_ == 0, released);
    Tensor t = *this;
    const std::int64_t row = dim(0) == 0 ? 0 : numel_ / dim(0);
    t.shape_[0] = end - begin;
    t.numel_ = (end - begin) * row;
    t.data_ = static_cast<std::byte*>(data_) + static_cast<std::size_t>(begin * row) * size_of(dtype_);
    return t;
}

Tensor Tensor::shaped(Shape shape, DType dtype, Device device) {
    Tensor t;
    t.numel_ = tensor::numel(shape);
    t.shape_ = std::move(shape);
    t.dtype_ = dtype;
    t.device_ = device;
    return t;
}

Tensor Tensor::clone() const {
    Tensor t = empty(shape_, dtype_, device_);
    move_bytes(t.data_, t.device_, data_, device_, nbytes());
    return t;
}

Tensor Tensor::to(DType dtype) const {
    if (dtype == dtype_) return *this;
    Tensor t = empty(shape_, dtype, device_);
    copy(t, *this);
    return t;
}

Tensor Tensor::to(Device device) const {
    if (device == device_ || dtype_ == DType::i32) return *this;
    Tensor t = empty(shape_, dtype_, device);
    move_bytes(t.data_, device, data_, device_, nbytes());
    return t;
}

template <class T>
std::vector<T> Tensor::to_vector() const {
    const Tensor here = to(Device{});
    const T* begin = here.data<T>();
    return std::vector<T>(begin, begin + numel_);
}

double Tensor::item() const {
    require(numel_ == 1, "item() of a tensor of shape ", to_string(shape_));
    const Tensor here = to(Device{});
    switch (dtype_) {
        case DType::f64:
            return *here.data<double>();
        case DType::f32:
            return *here.data<float>();
        case DType::bf16:
            return *here.data<bf16>();
        case DType::i32:
            break;
    }
    return *here.data<std::int32_t>();
}

template Tensor Tensor::from(const std::vector<double>&, Shape);
template Tensor Tensor::from(const std::vector<float>&, Shape);
template Tensor Tensor::from(const std::vector<bf16>&, Shape);
template Tensor Tensor::from(const std::vector<std::int32_t>&, Shape);
template std::vector<double> Tensor::to_vector() const;
template std::vector<float> Tensor::to_vector() const;
template std::vector<bf16> Tensor::to_vector() const;
template std::vector<std::int32_t> Tensor::to_vector() const;

}  // namespace uipe::tensor
