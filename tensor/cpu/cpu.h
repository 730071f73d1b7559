// The CPU implementation of ops.h, which documents each function. Shapes and types have been checked there.
#pragma once

#include <type_traits>

#include "tensor/ops.h"
#include "tensor/packed_matrix.h"

namespace uipe::tensor::cpu {

/// The type in which sums over T are kept.
template <class T>
using acc_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

/// Calls body.template operator()<T>() with T the element type of `dtype`, a float type.
template <class Body>
void with_float(DType dtype, const Body& body) {
    switch (dtype) {
        case DType::f64:
            return body.template operator()<double>();
        case DType::f32:
            return body.template operator()<float>();
        case DType::bf16:
            return body.template operator()<bf16>();
        case DType::i32:
            break;
    }
    throw Error("an i32 tensor where floats are needed");
}

/// The same over the accumulators' types, f64 and f32.
template <class Body>
void with_accumulator(DType dtype, const Body& body) {
    if (dtype == DType::f64) return body.template operator()<double>();
    body.template operator()<float>();
}

#include "tensor/backend.inc"

/// w[n,k] as products a w^T with many rows read it; nullptr where oneDNN has no other layout for it, or no product.
std::shared_ptr<const Packed> pack(const Tensor& w);
/// y[m,n] = a[m,k] w^T. False where so few rows want w itself, or another layout.
bool matmul(const Tensor& y, const Tensor& a, const Packed& w);
/// y[m,n] = a[m,k] b[n,k]^T for m of 1 or 2.
void matmul_few_rows(const Tensor& y, const Tensor& a, const Tensor& b);

}  // namespace uipe::tensor::cpu
