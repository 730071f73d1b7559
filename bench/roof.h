// What this machine can do, measured in the run that is judged by it: the same threads, clock and neighbours.
#pragma once

#include "tensor/dtype.h"

namespace uipe::bench {

struct Roof {
    /// FLOP/s of the best of a few large oneDNN products through tensor::matmul, on random data. This is a roof of
    /// products as this program computes them, not of the processor: packed weights or another library may be faster.
    double gemm_f32 = 0;
    double gemm_bf16 = 0;
    /// FLOP/s of independent f32 multiply-adds in registers: the processor's own roof.
    double fma_f32 = 0;
    /// Bytes a second read and written by memcpy between buffers beyond the caches. memcpy may write past the caches,
    /// where a kernel's plain store first reads the line: a perfect kernel can then show less than 100 %, and one whose
    /// operands fit a cache shows more.
    double copy = 0;

    double gemm(tensor::DType dtype) const { return dtype == tensor::DType::bf16 ? gemm_bf16 : gemm_f32; }
};

/// Measured at the first call, about a second, then kept.
const Roof& roof();

}  // namespace uipe::bench
