// All that a kernel may ask of the hardware. A kernel is written once, in plain CUDA C++ with these functions, and runs
// on a GPU (device_cuda.h) or, a fiber for each of its threads, on any processor (device_host.h and emulator.h).
//
// Rules for kernels:
// * Blocks are one-dimensional, of whole warps (32 threads); grids have up to three dimensions.
// * Every operation of a warp (shuffle, ballot, sum, load_matrix, mma) is met by all its 32 lanes, every sync() by all
//   threads of the block, at one place of the source. A thread that has nothing to do takes part and drops the result.
// * Shared memory: DEV_SHARED(T, name, n) and DEV_DYNAMIC_SHARED(name). Its first content is undefined.
// * No spinning, no waiting for other blocks: blocks may run one after another.
// * float math by the functions below; their last bits may differ between GPU and host.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "tensor/dtype.h"

#ifdef __CUDACC__
#include "tensor/cuda/device/device_cuda.h"
#else
#include "tensor/cuda/device/device_host.h"
#endif

namespace uipe::dev {

using tensor::bf16;

constexpr int warp_size = 32;

__device__ inline int lane() { return thread() % warp_size; }
__device__ inline int warp() { return thread() / warp_size; }

/// Elements that move together: 16 bytes, the widest load there is.
template <class T>
struct alignas(16) Vec {
    static constexpr int size = 16 / sizeof(T);
    T at[size];
};

/// 16 bytes at p, which must be aligned to 16.
template <class T>
__device__ inline Vec<T> load(const T* p) {
    return std::bit_cast<Vec<T>>(*reinterpret_cast<const Bytes16*>(p));
}
template <class T>
__device__ inline void store(T* p, const Vec<T>& v) {
    *reinterpret_cast<Bytes16*>(p) = std::bit_cast<Bytes16>(v);
}

template <class T>
__device__ inline T to(float x) {
    if constexpr (std::is_same_v<T, bf16>)
        return to_bf16(x);
    else
        return x;
}
__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(bf16 x) { return x; }

template <class T>
__device__ inline T min_of(T a, T b) {
    return b < a ? b : a;
}
template <class T>
__device__ inline T max_of(T a, T b) {
    return a < b ? b : a;
}

/// The sum (the largest) over the lanes of the warp, in each of them. A butterfly: the order of the sum is fixed.
template <class T>
__device__ inline T warp_sum(T x DEV_AND_HERE) {
    for (int step = warp_size / 2; step > 0; step /= 2) x += shuffle_xor(x, step DEV_AND_PASS);
    return x;
}
__device__ inline float warp_max(float x DEV_AND_HERE) {
    for (int step = warp_size / 2; step > 0; step /= 2) x = max_of(x, shuffle_xor(x, step DEV_AND_PASS));
    return x;
}

/// The sum (the largest) over the threads of the block, in each of them, in a fixed order. Begins and ends with a
/// sync(), so one buffer serves calls in a row. `buffer`: shared, one value a warp.
template <class T>
__device__ inline T block_sum(T x, T* buffer DEV_AND_HERE) {
    x = warp_sum(x DEV_AND_PASS);
    sync(DEV_PASS);
    if (lane() == 0) buffer[warp()] = x;
    sync(DEV_PASS);
    const int warps = threads() / warp_size;
    T sum{};
    for (int w = 0; w < warps; ++w) sum += buffer[w];
    return sum;
}
__device__ inline float block_max(float x, float* buffer DEV_AND_HERE) {
    x = warp_max(x DEV_AND_PASS);
    sync(DEV_PASS);
    if (lane() == 0) buffer[warp()] = x;
    sync(DEV_PASS);
    const int warps = threads() / warp_size;
    float most = buffer[0];
    for (int w = 1; w < warps; ++w) most = max_of(most, buffer[w]);
    return most;
}

/// Where chunk `chunk` (16 bytes) of row `row` lies in a tile of shared memory with `chunks` of them a row, a multiple
/// of 8, in elements of 2 bytes: the eight rows that load_matrix reads at once then lie in different banks.
__device__ inline int swizzle(int row, int chunk, int chunks) { return (row * chunks + (chunk ^ (row % 8))) * 8; }

}  // namespace uipe::dev
