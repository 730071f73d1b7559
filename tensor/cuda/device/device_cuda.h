// The GPU's half of device.h: the only file with inline assembly beside hopper_cuda.h, and the only one that names
// CUDA's built-in variables.
#pragma once

#include <cuda_bf16.h>

#include <type_traits>

#define DEV_HERE
#define DEV_AND_HERE
#define DEV_PASS
#define DEV_AND_PASS

// Before a loop that must unroll wholly, for its arrays to live in registers; by a count; not at all.
#define DEV_UNROLL _Pragma("unroll")
#define DEV_UNROLL_BY(count) DEV_PRAGMA(unroll count)
#define DEV_NO_UNROLL _Pragma("unroll 1")
#define DEV_PRAGMA(text) _Pragma(#text)

/// T* name: n elements of shared memory. (Bytes: a shared variable cannot have a constructor, and bf16 has one.)
#define DEV_SHARED(T, name, n)                                            \
    __shared__ __align__(16) unsigned char name##_bytes[sizeof(T) * (n)]; \
    T* const name = reinterpret_cast<T*>(name##_bytes)
/// std::byte* name: the shared memory asked for at launch, aligned to 128.
#define DEV_DYNAMIC_SHARED(name)                                     \
    extern __shared__ __align__(128) unsigned char dynamic_shared[]; \
    std::byte* const name = reinterpret_cast<std::byte*>(dynamic_shared)

namespace uipe::dev {

using Bytes16 = uint4;

__device__ inline int thread() { return static_cast<int>(threadIdx.x); }
__device__ inline int threads() { return static_cast<int>(blockDim.x); }
__device__ inline int block_x() { return static_cast<int>(blockIdx.x); }
__device__ inline int block_y() { return static_cast<int>(blockIdx.y); }
__device__ inline int block_z() { return static_cast<int>(blockIdx.z); }
__device__ inline int blocks_x() { return static_cast<int>(gridDim.x); }
__device__ inline int blocks_y() { return static_cast<int>(gridDim.y); }

/// Waits for every thread of the block (of the warp); what each wrote to memory before, the others see after.
__device__ inline void sync() { __syncthreads(); }
__device__ inline void sync_warp() { __syncwarp(); }

/// The value of the lane whose number differs by the bits of `mask`.
template <class T>
__device__ inline T shuffle_xor(T x, int mask) {
    return __shfl_xor_sync(0xffffffffU, x, mask);
}
/// The value of lane `source`.
template <class T>
__device__ inline T shuffle(T x, int source) {
    return __shfl_sync(0xffffffffU, x, source);
}
/// Bit l: what lane l said.
__device__ inline std::uint32_t ballot(bool yes) { return __ballot_sync(0xffffffffU, yes); }

/// *p += x, one thread at a time; the value before. For integers alone: sums of floats would depend on the order.
__device__ inline int atomic_add(int* p, int x) { return atomicAdd(p, x); }

/// Within the block's shared memory.
__device__ inline std::uint32_t shared_address(const void* p) {
    return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

/// Starts to copy 16 bytes from global to shared memory, both aligned to 16; zeros when not `valid` (and then `from` is
/// not read). The bytes are there after copy_wait and a sync().
__device__ inline void copy_async(void* shared, const void* from, bool valid = true) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(from),
                 "r"(valid ? 16 : 0)
                 : "memory");
}
/// Ends a group of copies; a group may be empty.
__device__ inline void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until at most the last `pending` groups of this thread are under way.
template <int pending>
__device__ inline void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

/// Four 8x8 matrices of 2-byte elements from shared memory: lane l gives the address of row l % 8 of matrix l / 8, 16
/// bytes aligned to 16, and gets from matrix i, in r[i], elements 2 (l % 4) and 2 (l % 4) + 1 of row l / 4
/// (PTX ISA, ldmatrix). `transposed`: of the transposed matrices.
template <bool transposed = false>
__device__ inline void load_matrix(std::uint32_t (&r)[4], const void* row) {
    if constexpr (transposed)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(shared_address(row))
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(shared_address(row))
                     : "memory");
}

/// d[16,8] += a[16,16] b[16,8] over the warp, bf16 products summed in f32 (PTX ISA, mma.m16n8k16). With g = lane / 4
/// and t = lane % 4: a[i] holds row g + 8 (i % 2), columns 2t + 8 (i / 2) and the next; b[i] rows 2t + 8 i and the next
/// of column g; d[i] row g + 8 (i / 2), column 2t + i % 2.
__device__ inline void mma(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ inline tensor::bf16 to_bf16(float x) {
    return std::bit_cast<tensor::bf16>(__bfloat16_as_ushort(__float2bfloat16_rn(x)));
}

/// Two values rounded to bf16, the first in the lower half: a register of an mma operand.
__device__ inline std::uint32_t pack(float low, float high) {
    std::uint32_t y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}

// Within 2 ulp (exp2, exp: near 0 too); rsqrt and division as CUDA's own.
__device__ inline float exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ inline float exp(float x) { return expf(x); }
__device__ inline float log(float x) { return logf(x); }
__device__ inline float log1p(float x) { return log1pf(x); }
__device__ inline float sqrt(float x) { return sqrtf(x); }
__device__ inline float sin_pi(float x) { return sinpif(x); }  // of pi x
__device__ inline float cos_pi(float x) { return cospif(x); }
__device__ inline double sqrt(double x) { return ::sqrt(x); }
/// The larger; the other where one is NaN.
__device__ inline float fmax(float a, float b) { return fmaxf(a, b); }
__device__ inline float fma(float a, float b, float c) { return fmaf(a, b, c); }

}  // namespace uipe::dev
