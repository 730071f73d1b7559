// The host's half of device.h: every function of device_cuda.h, whose comments describe them, on the emulator.
#pragma once

#include <cmath>
#include <numbers>
#include <source_location>
#include <type_traits>

#include "tensor/cuda/device/emulator.h"

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__ __restrict

// Where in the kernel an operation stands, for messages; helpers pass on where they were called.
#define DEV_HERE std::source_location here = std::source_location::current()
#define DEV_AND_HERE , std::source_location here = std::source_location::current()
#define DEV_PASS here
#define DEV_AND_PASS , here

#define DEV_UNROLL
#define DEV_UNROLL_BY(count)
#define DEV_NO_UNROLL

// Work of the emulator itself, not of a kernel: the race detector must not look.
#define DEV_UNSEEN __attribute__((no_sanitize("thread")))

#define DEV_SHARED(T, name, n)                                                                                      \
    T* const name = [] {                                                                                            \
        static const char key = 0; /* of this array, in this instantiation of the kernel */                         \
        return reinterpret_cast<T*>(::uipe::emulator::shared_array(&key, sizeof(T) * static_cast<std::size_t>(n))); \
    }()
#define DEV_DYNAMIC_SHARED(name) std::byte* const name = ::uipe::emulator::dynamic_shared()

namespace uipe::dev {

struct alignas(16) Bytes16 {
    std::uint64_t at[2];
};

inline int thread() { return emulator::state.thread; }
inline int threads() { return emulator::state.threads; }
inline int block_x() { return emulator::state.block[0]; }
inline int block_y() { return emulator::state.block[1]; }
inline int block_z() { return emulator::state.block[2]; }
inline int blocks_x() { return emulator::state.blocks[0]; }
inline int blocks_y() { return emulator::state.blocks[1]; }

inline void sync(DEV_HERE) { emulator::sync(here); }
inline void sync_warp(DEV_HERE) { emulator::sync_warp(here); }

template <class T>
struct Shuffle {
    T value;
    int source;
    T result;
    /// Each lane's result, when all have arrived.
    DEV_UNSEEN static void finish(void* const* lanes) {
        for (int l = 0; l < 32; ++l) {
            auto* to = static_cast<Shuffle*>(lanes[l]);
            to->result = static_cast<const Shuffle*>(lanes[to->source % 32])->value;
        }
    }
};

template <class T>
T shuffle(T x, int source DEV_AND_HERE) {
    Shuffle<T> data{x, source, x};
    emulator::meet("shuffle", here, &data, Shuffle<T>::finish);
    return data.result;
}
template <class T>
T shuffle_xor(T x, int mask DEV_AND_HERE) {
    return dev::shuffle(x, (thread() % 32) ^ mask, here);  // unqualified, std::shuffle is found too
}
inline std::uint32_t ballot(bool yes DEV_AND_HERE) { return emulator::ballot(yes, here); }

inline int atomic_add(int* p, int x) { return emulator::atomic_add(p, x); }

inline std::uint32_t shared_address(const void* p) { return emulator::shared_address(p); }

inline void copy_async(void* shared, const void* from, bool valid = true DEV_AND_HERE) {
    emulator::copy_async(shared, from, valid, here);
}
inline void copy_commit() { emulator::copy_commit(); }
template <int pending>
void copy_wait() {
    emulator::copy_wait(pending);
}

template <bool transposed = false>
void load_matrix(std::uint32_t (&r)[4], const void* row DEV_AND_HERE) {
    emulator::load_matrix(r, row, transposed, here);
}
inline void mma(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1 DEV_AND_HERE) {
    emulator::mma(d, a, b0, b1, here);
}

inline tensor::bf16 to_bf16(float x) { return x; }
inline std::uint32_t pack(float low, float high) {
    return static_cast<std::uint32_t>(to_bf16(low).bits) | static_cast<std::uint32_t>(to_bf16(high).bits) << 16;
}

inline float exp2(float x) { return std::exp2(x); }
inline float exp(float x) { return std::exp(x); }
inline float log(float x) { return std::log(x); }
inline float log1p(float x) { return std::log1p(x); }
inline float sqrt(float x) { return std::sqrt(x); }
inline float sin_pi(float x) { return static_cast<float>(std::sin(std::numbers::pi * x)); }
inline float cos_pi(float x) { return static_cast<float>(std::cos(std::numbers::pi * x)); }
inline double sqrt(double x) { return std::sqrt(x); }
inline float fmax(float a, float b) { return std::fmax(a, b); }
inline float fma(float a, float b, float c) { return std::fma(a, b, c); }

}  // namespace uipe::dev
