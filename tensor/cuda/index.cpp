#include "tensor/allocator.h"
#include "tensor/cuda/cuda.h"

namespace uipe::tensor::cuda {

const std::int32_t* indices(const Tensor& t) {
    std::shared_ptr<void>& copy = t.device_copy();
    if (copy == nullptr) {
        copy = allocate(t.storage_bytes(), {Device::Kind::cuda});
        upload(copy.get(), static_cast<const std::byte*>(t.raw()) - t.offset(), t.storage_bytes());
    }
    return reinterpret_cast<const std::int32_t*>(static_cast<const std::byte*>(copy.get()) + t.offset());
}

}  // namespace uipe::tensor::cuda
