// What this machine can do, measured in the run that is judged by it: the same threads, clock and neighbours.
#pragma once

#include "tensor/dtype.h"

namespace uipe::bench {

/// Each is the best of several repetitions on all threads, a roof being what the machine can do at all.
struct Roof {
    /// FLOP/s of independent f32 multiply-adds in registers: what the processor can do, and no product reaches quite.
    double f32 = 0;
    /// FLOP/s of independent bf16 dot products in registers (vdpbf16ps) where the processor has them, or of the best
    /// large product as this program computes it where that is more: always so without the instruction, and where
    /// a matrix unit (AMX), whose own roof is not measured, does the products.
    double bf16 = 0;
    /// Bytes a second read and written by the better of memcpy, which may write past the caches, and a plain loop of
    /// vectors, which reads each line before it writes it, from one buffer of 256 MiB to another. The buffers come from
    /// the program's allocator, so their pages are those of its tensors.
    double copy = 0;
    /// Bytes a second read by summing a buffer of 512 MiB.
    double read = 0;

    double compute(tensor::DType dtype) const { return dtype == tensor::DType::bf16 ? bf16 : f32; }
};

/// Measured at the first call, about two seconds, then kept.
const Roof& roof();

}  // namespace uipe::bench
