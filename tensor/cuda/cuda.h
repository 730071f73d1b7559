// The CUDA implementation of ops.h, for f32 and bf16, on a GPU or on the emulator. Kernels and their launches are in
// the .cu files beside this; nothing here waits for the device unless it returns a value.
#pragma once

#include <cstring>

#include "tensor/cuda/device/launch.h"
#include "tensor/ops.h"

namespace uipe::tensor::cuda {

#include "tensor/backend.inc"

/// InputError when no level of attention, or not the wanted one, takes such heads.
void check_attention(DType dtype, std::int64_t head_dim);
/// InputError when cuBLASLt is missing, or a variable of the environment that products go by has no meaning.
void check_products();

/// Calls body.template operator()<T>() with T the element type of `dtype`, f32 or bf16.
template <class Body>
void with_float(DType dtype, const Body& body) {
    if (dtype == DType::f32) return body.template operator()<float>();
    if (dtype == DType::bf16) return body.template operator()<bf16>();
    throw Error(cat("the CUDA backend computes in f32 and bf16, not in ", name_of(dtype), "; --device cpu does"));
}

/// The elements of a tensor on the device.
template <class T>
T* at(const Tensor& t) {
    require(t.device().kind == Device::Kind::cuda && dtype_of<T> == t.dtype(), "a tensor of ", name_of(t.dtype()),
            " on the wrong device or read as another type");
    return static_cast<T*>(t.raw());
}
/// The same, or nullptr for an undefined tensor.
template <class T>
T* at_or_null(const Tensor& t) {
    return t.defined() ? at<T>(t) : nullptr;
}
/// The device's copy of an index tensor, which lives on the host: made at first use, and kept beside it.
const std::int32_t* indices(const Tensor& t);

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace uipe::tensor::cuda
