// What kernels over rows and elements share: n neighbours moved at once and computed with as floats.
#pragma once

#include "tensor/cuda/cuda.h"
#include "tensor/cuda/device/device.h"

namespace uipe::tensor::cuda {

/// n floats from n elements at p: pieces of 16 bytes (of 8, for four bf16), to which p is aligned; or one element.
template <int n, class T>
__device__ inline void read(float (&v)[n], const T* p) {
    if constexpr (n == 1) {
        v[0] = dev::to_float(*p);
    } else if constexpr (n * sizeof(T) == 8) {
        struct alignas(8) Half {
            std::uint32_t pair[2];
        };
        const Half half = *reinterpret_cast<const Half*>(p);
        for (int i = 0; i < n; ++i)
            v[i] = std::bit_cast<float>((half.pair[i / 2] << (i % 2 == 0 ? 16 : 0)) & 0xffff0000U);
    } else {
        constexpr int size = dev::Vec<T>::size;
        static_assert(n % size == 0);
        for (int i = 0; i < n; i += size) {
            const dev::Vec<T> piece = dev::load(p + i);
            for (int j = 0; j < size; ++j) v[i + j] = dev::to_float(piece.at[j]);
        }
    }
}

/// The other way, rounding.
template <int n, class T>
__device__ inline void write(T* p, const float (&v)[n]) {
    if constexpr (n == 1) {
        *p = dev::to<T>(v[0]);
    } else if constexpr (n * sizeof(T) == 8) {
        struct alignas(8) Half {
            std::uint32_t pair[2];
        };
        *reinterpret_cast<Half*>(p) = {{dev::pack(v[0], v[1]), dev::pack(v[2], v[3])}};
    } else {
        constexpr int size = dev::Vec<T>::size;
        static_assert(n % size == 0);
        for (int i = 0; i < n; i += size) {
            dev::Vec<T> piece;
            for (int j = 0; j < size; ++j) piece.at[j] = dev::to<T>(v[i + j]);
            dev::store(p + i, piece);
        }
    }
}

/// n elements copied, bit by bit.
template <int n, class T>
__device__ inline void move(T* to, const T* from) {
    if constexpr (n == 1)
        *to = *from;
    else
        dev::store(to, dev::load(from));
}

/// write(), added to what is there when `adds`.
template <bool adds, int n, class T>
__device__ inline void write_or_add(T* p, const float (&v)[n]) {
    float sum[n] = {};
    if constexpr (adds) read(sum, p);
    for (int i = 0; i < n; ++i) sum[i] = adds ? sum[i] + v[i] : v[i];
    write(p, sum);
}

/// Whether every tensor (or none, undefined) begins at a multiple of 16 bytes: a view of rows may begin anywhere.
template <class... Tensors>
bool aligned(const Tensors&... t) {
    return (... && (reinterpret_cast<std::uintptr_t>(t.raw()) % 16 == 0));
}

/// Calls body.template operator()<n>() with n the elements of `most` that make 16 bytes where `vectors`, else with 1.
template <class T, class Body>
void with_width(bool vectors, const Body& body) {
    vectors ? body.template operator()<dev::Vec<T>::size>() : body.template operator()<1>();
}

/// body.template operator()<flag>() with a run-time flag.
template <class Body>
void with_flag(bool flag, const Body& body) {
    flag ? body.template operator()<true>() : body.template operator()<false>();
}

/// Threads of a block that takes a row in `pieces`: whole warps, no more than there is work for, at most `most`.
inline int threads_for(std::int64_t pieces, int most) {
    const std::int64_t warps = ceil_div(pieces, dev::warp_size);
    return static_cast<int>(warps < 1                       ? 1
                            : warps * dev::warp_size < most ? warps
                                                            : most / dev::warp_size) *
           dev::warp_size;
}

}  // namespace uipe::tensor::cuda
