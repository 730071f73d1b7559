#include "tensor/tensor.h"

#include <algorithm>
#include <cstring>

#include "tensor/allocator.h"
#include "tensor/ops.h"

namespace uipe::tensor {

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
    t.device_ = device;
    auto storage = allocate(t.nbytes(), device);
    t.data_ = storage.get();
    t.storage_ = std::move(storage);
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
    Tensor t;
    t.numel_ = tensor::numel(shape);
    t.shape_ = std::move(shape);
    t.dtype_ = dtype;
    t.storage_ = std::move(owner);
    t.data_ = const_cast<void*>(data);
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
    Tensor t = *this;
    const std::int64_t row = dim(0) == 0 ? 0 : numel_ / dim(0);
    t.shape_[0] = end - begin;
    t.numel_ = (end - begin) * row;
    t.data_ = static_cast<std::byte*>(data_) + static_cast<std::size_t>(begin * row) * size_of(dtype_);
    return t;
}

Tensor Tensor::clone() const {
    Tensor t = empty(shape_, dtype_, device_);
    if (nbytes() > 0) std::memcpy(t.data_, data_, nbytes());
    return t;
}

Tensor Tensor::to(DType dtype) const {
    if (dtype == dtype_) return *this;
    Tensor t = empty(shape_, dtype, device_);
    copy(t, *this);
    return t;
}

template <class T>
std::vector<T> Tensor::to_vector() const {
    const T* begin = data<T>();
    return std::vector<T>(begin, begin + numel_);
}

double Tensor::item() const {
    require(numel_ == 1, "item() of a tensor of shape ", to_string(shape_));
    switch (dtype_) {
        case DType::f64:
            return *data<double>();
        case DType::f32:
            return *data<float>();
        case DType::bf16:
            return *data<bf16>();
        case DType::i32:
            break;
    }
    return *data<std::int32_t>();
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
