// What a kernel for sm_90 may ask beside device.h: barriers that count arrivals and bytes, copies of boxes of a tensor
// by one instruction, and products by four warps together, a warpgroup, from shared memory. On the GPU (hopper_cuda.h)
// or on the emulator (hopper_host.h).
//
// Rules, beside those of device.h:
// * Operations of a warpgroup (multiply, products_wait, registers) are met by all its 128 threads, at one place.
// * What a product reads or writes, in registers or shared memory, is left alone, and in scope, from
//   products_begin() to the products_wait() that covers it.
// * A phase of a barrier ends when all have arrived and all announced bytes were copied; the next begins at once. Who
//   waits names the phase by its parity, so nobody may be two phases late.
// * Kernels are for sm_90 alone, and nothing elsewhere: `if constexpr (dev::hopper)` around what they do.
#pragma once

#include "tensor/cuda/device/device.h"

namespace uipe::dev {

constexpr int warpgroup_size = 128;

__device__ inline int warpgroup() { return thread() / warpgroup_size; }
/// Within its warpgroup.
__device__ inline int warp_of_group() { return warp() % 4; }

/// How tiles lie in shared memory: bytes' addresses are permuted, by bits 7 to 9 (bytes128), 7 and 8, or 7 upon those
/// from 4 on, so that rows of that many bytes are read by columns without bank conflicts. The numbers are those of the
/// descriptor.
enum class Swizzle : std::uint8_t { none, bytes128, bytes64, bytes32 };
constexpr int span_of(Swizzle swizzle) { return swizzle == Swizzle::none ? 16 : 256 >> static_cast<int>(swizzle); }

/// A matrix in shared memory, as multiply() takes it (PTX ISA, "Matrix descriptor format"). Elements of bf16 lie,
/// before the swizzle, in rows of span_of(swizzle) bytes; the address of row 0 of a tile is a multiple of 8 of them. K
/// contiguous (rows of the left, columns of the right operand): eight rows, the next eight `stride` bytes on. Without
/// swizzle, the second half of K = 16 lies `leading` bytes after the first; else `leading` counts for nothing.
/// N contiguous (across): eight k of a span of columns; the next eight k are `stride` bytes on, the next span of
/// columns `leading`. Without swizzle it is the other way about.
__device__ inline std::uint64_t matrix_at(const void* shared, int leading, int stride, Swizzle swizzle) {
    const auto field = [](std::uint32_t bytes) { return static_cast<std::uint64_t>((bytes & 0x3FFFF) >> 4); };
    return field(shared_address(shared)) | field(static_cast<std::uint32_t>(leading)) << 16 |
           field(static_cast<std::uint32_t>(stride)) << 32 | static_cast<std::uint64_t>(swizzle) << 62;
}
/// The matrix `bytes` (a multiple of 16) further on.
__device__ inline std::uint64_t matrix_after(std::uint64_t matrix, int bytes) {
    return matrix + static_cast<std::uint64_t>(bytes / 16);
}

}  // namespace uipe::dev

#ifdef __CUDACC__
#include "tensor/cuda/device/hopper_cuda.h"
#else
#include "tensor/cuda/device/hopper_host.h"
#endif
