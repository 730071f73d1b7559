// The Tensor handle: a shape and an element type over shared storage.
// Tensors are dense and row-major, always: a view is a range of rows, or another shape over the same bytes.
// A transposed operand is a flag of matmul, never a stride.
// Floats live on a device; index tensors (i32) always on the host, where they are made and checked. A device that needs
// one keeps a copy beside it from its first use on, so an index tensor must not be written after an op has seen it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tensor/base/error.h"
#include "tensor/dtype.h"

namespace uipe::tensor {

using Shape = std::vector<std::int64_t>;
std::int64_t numel(const Shape& shape);
std::string to_string(const Shape& shape);

struct Device {
    enum class Kind : std::uint8_t { cpu, cuda, meta };
    Kind kind = Kind::cpu;
    int index = 0;
    bool operator==(const Device&) const = default;
};
/// A device without memory, for plans. Its tensors have shapes and are counted by its allocator; its ops check their
/// operands, count their work, take what memory they would take for themselves on `of`, a CPU or a GPU, and compute
/// nothing. Brought to the host, its tensors are zeros; to read one where it is is an Error.
Device meta(Device of);
/// What a meta device stands for; any other stands for itself.
Device stands_for(Device device);
/// "cpu" or "cuda"; InputError lists them, or says what is missing for CUDA.
Device device_named(const std::string& name);
/// "cpu", "cuda" or "meta".
const char* name_of(Device device);
/// Its name and memory: "cuda: NVIDIA H200, 139 GiB", "cuda: emulator", "cpu: 2 threads".
std::string description(Device device);

class Tensor {
public:
    /// An undefined tensor: no storage, `defined()` is false.
    Tensor() = default;

    /// Uninitialised elements (all-ones bytes, a NaN, when poisoning is on; see allocator.h).
    static Tensor empty(Shape shape, DType dtype, Device device = {});
    static Tensor zeros(Shape shape, DType dtype, Device device = {});
    static Tensor full(Shape shape, DType dtype, double value, Device device = {});
    /// A copy of host values; `shape` defaults to one dimension.
    template <class T>
    static Tensor from(const std::vector<T>& values, Shape shape = {});
    /// A read-only view of memory owned by `owner` (a mapped file); a copy, for index tensors. The caller must not
    /// write to it.
    static Tensor borrow(const void* data, Shape shape, DType dtype, std::shared_ptr<const void> owner);
    /// On a meta device, a tensor that its allocator does not count: one that is borrowed in what is planned.
    static Tensor uncounted(Shape shape, DType dtype, Device device);

    bool defined() const { return data_ != nullptr; }
    const Shape& shape() const { return shape_; }
    std::int64_t dim(int i) const { return shape_.at(static_cast<std::size_t>(i < 0 ? i + rank() : i)); }
    int rank() const { return static_cast<int>(shape_.size()); }
    std::int64_t numel() const { return numel_; }
    std::size_t nbytes() const { return static_cast<std::size_t>(numel_) * size_of(dtype_); }
    DType dtype() const { return dtype_; }
    Device device() const { return device_; }

    /// The elements as T, in memory of the host; Error when T is not the element type, or they are on a device.
    template <class T>
    T* data() const {
        require(dtype_of<T> == dtype_ && device_.kind == Device::Kind::cpu, "tensor of ", name_of(dtype_), " on ",
                name_of(device_), " read as ", name_of(dtype_of<T>), " on cpu");
        return static_cast<T*>(data_);
    }
    /// Where the elements are, on their device.
    void* raw() const { return data_; }

    /// The same elements under another shape of equal size.
    Tensor view(Shape shape) const;
    /// Rows [begin, end) of the first dimension, sharing storage.
    Tensor rows(std::int64_t begin, std::int64_t end) const;

    /// A shape, a type and a device without elements: not defined().
    static Tensor shaped(Shape shape, DType dtype, Device device = {});
    Tensor without_storage() const { return shaped(shape_, dtype_, device_); }

    Tensor clone() const;
    /// This tensor when it already has the type, else a converted copy.
    Tensor to(DType dtype) const;
    /// This tensor when it is there already, else a copy there. An index tensor stays on the host.
    Tensor to(Device device) const;
    /// The elements; waits for a device.
    template <class T>
    std::vector<T> to_vector() const;
    /// The only element, as f64; waits for a device.
    double item() const;

    /// The device copy of an index tensor, kept with its storage: empty until a backend has made it.
    std::shared_ptr<void>& device_copy() const { return *device_copy_; }
    /// Bytes from the begin of the storage to the first element.
    std::ptrdiff_t offset() const {
        return static_cast<std::byte*>(data_) - static_cast<const std::byte*>(storage_.get());
    }
    /// Bytes of the storage that index tensors share.
    std::size_t storage_bytes() const { return storage_bytes_; }

private:
    std::shared_ptr<const void> storage_;
    std::shared_ptr<std::shared_ptr<void>> device_copy_;  // of index tensors only
    std::size_t storage_bytes_ = 0;
    void* data_ = nullptr;
    Shape shape_;
    std::int64_t numel_ = 0;
    DType dtype_ = DType::f32;
    Device device_;
};

}  // namespace uipe::tensor
