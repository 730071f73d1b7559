// Descriptions of tensors for the copy engine of sm_90, made on the host: by the driver, or for the emulator.
#pragma once

#include "tensor/base/error.h"
#include "tensor/cuda/device/hopper.h"

namespace uipe::tensor::cuda {

/// A tensor of up to three dimensions of bf16 in global memory, the first contiguous, and the box that copy_box moves.
struct BoxOf {
    const void* base;  // a multiple of 16. No element need lie there: indices may begin above 0
    std::int64_t sizes[3];
    std::int64_t strides[2];  // bytes of the second and third dimension, multiples of 16
    int box[3];               // the first: as many elements as the swizzle spans, or fewer; others at most 256
    dev::Swizzle swizzle;
};
/// Throws Error when it is out of bounds, or the driver does not take it.
dev::TensorMap tensor_map(const BoxOf& b);

/// The bounds, the same for the driver and the emulator (CUDA driver API, cuTensorMapEncodeTiled).
inline void check_box(const BoxOf& b) {
    const auto base = reinterpret_cast<std::uintptr_t>(b.base);
    bool good = base % 16 == 0 && b.box[0] * 2 % 16 == 0 &&
                (b.swizzle == dev::Swizzle::none || b.box[0] * 2 <= dev::span_of(b.swizzle));
    for (int i = 0; i < 3; ++i)
        good = good && 0 < b.sizes[i] && b.sizes[i] <= std::int64_t{1} << 32 && 0 < b.box[i] && b.box[i] <= 256;
    for (const std::int64_t stride : b.strides)
        good = good && stride > 0 && stride % 16 == 0 && stride < std::int64_t{1} << 40;
    require(good, "a box of ", b.box[0], "x", b.box[1], "x", b.box[2], " in a tensor of ", b.sizes[0], "x", b.sizes[1],
            "x", b.sizes[2], " with strides ", b.strides[0], ", ", b.strides[1], " is out of bounds");
}

}  // namespace uipe::tensor::cuda
