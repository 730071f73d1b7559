// Vectors of the accumulator's type, by the compiler's vector extension: arithmetic is written with + and *, and every
// processor's own instructions come out. Tensors of bf16 are widened on load and rounded to nearest even on store.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "tensor/dtype.h"
#include "tensor/parallel.h"

namespace uipe::tensor::cpu {

#if defined(__AVX512F__)
inline constexpr int vector_bytes = 64;
#elif defined(__AVX__)
inline constexpr int vector_bytes = 32;
#else
inline constexpr int vector_bytes = 16;
#endif

template <class E>
struct VectorOf {
    using type [[gnu::vector_size(vector_bytes), gnu::may_alias]] = E;
};
template <class E>
using Vector = typename VectorOf<E>::type;

/// Elements of one vector register.
template <class E>
inline constexpr std::int64_t lanes = vector_bytes / static_cast<int>(sizeof(E));

/// The lanes x[0 … lanes) of a tensor, in the accumulator's type.
template <class T>
inline auto load(const T* x) {
    if constexpr (std::is_same_v<T, bf16>) {
        using Halves [[gnu::vector_size(vector_bytes / 2)]] = std::uint16_t;
        Halves bits;
        std::memcpy(&bits, x, sizeof(bits));
        return std::bit_cast<Vector<float>>(__builtin_convertvector(bits, Vector<std::uint32_t>) << 16);
    } else {
        Vector<T> v;
        std::memcpy(&v, x, sizeof(v));
        return v;
    }
}

template <class T, class V>
inline void store(T* y, const V& v) {
    if constexpr (std::is_same_v<T, bf16>) {
        using Halves [[gnu::vector_size(vector_bytes / 2)]] = std::uint16_t;
        const auto u = std::bit_cast<Vector<std::uint32_t>>(v);
        const auto rounded = (u + 0x7fffU + ((u >> 16) & 1U)) >> 16;
        const auto bits = (u & 0x7fffffffU) > 0x7f800000U ? Vector<std::uint32_t>{} + 0x7fffU : rounded;  // NaN
        const Halves halves = __builtin_convertvector(bits, Halves);
        std::memcpy(static_cast<void*>(y), &halves, sizeof(halves));
    } else {
        std::memcpy(y, &v, sizeof(v));
    }
}

/// Where a vector's worth of elements stands: all of a register's …
struct Whole {
    std::int64_t i;
    template <class T>
    auto load(const T* x) const {
        return cpu::load(x + i);
    }
    template <class T, class V>
    void store(T* y, const V& v) const {
        cpu::store(y + i, v);
    }
};

/// … or the first `n` of them, at the end of a range. The lanes beyond are zero, and are not stored.
struct Part {
    std::int64_t i, n;
    template <class T>
    auto load(const T* x) const {
        T all[64] = {};
        std::memcpy(static_cast<void*>(all), x + i, static_cast<std::size_t>(n) * sizeof(T));
        return cpu::load(all);
    }
    template <class T, class V>
    void store(T* y, const V& v) const {
        T all[64];
        cpu::store(all, v);
        std::memcpy(static_cast<void*>(y + i), all, static_cast<std::size_t>(n) * sizeof(T));
    }
};

/// Calls body(place) for the vectors of A that cover [begin, end).
template <class A, class Body>
inline void each_vector(std::int64_t begin, std::int64_t end, const Body& body) {
    std::int64_t i = begin;
    for (; i + lanes<A> <= end; i += lanes<A>) body(Whole{i});
    if (i < end) body(Part{i, end - i});
}

/// Elements that a thread takes at least: below this a second one costs more than it saves.
inline constexpr std::int64_t grain = 16384;

/// The same over [0, n) on all threads.
template <class A, class Body>
void parallel_vectors(std::int64_t n, const Body& body) {
    const std::int64_t vectors = ceil_div(n, lanes<A>);
    parallel_for(vectors, grain / lanes<A>, [&](std::int64_t begin, std::int64_t end) {
        each_vector<A>(begin * lanes<A>, std::min(n, end * lanes<A>), body);
    });
}

/// The sum of the lanes, halves added to halves: always in the same order.
template <class E, int n>
inline E sum_of_lanes(const E* x) {
    if constexpr (n == 1) {
        return *x;
    } else {
        using Half [[gnu::vector_size(n / 2 * sizeof(E))]] = E;
        Half low, high;
        std::memcpy(&low, x, sizeof(low));
        std::memcpy(&high, x + n / 2, sizeof(high));
        low += high;
        E sums[n / 2];
        std::memcpy(sums, &low, sizeof(low));
        return sum_of_lanes<E, n / 2>(sums);
    }
}

template <class V>
inline auto sum_of(const V& v) {
    using E = std::remove_cvref_t<decltype(v[0])>;
    constexpr int n = sizeof(V) / sizeof(E);
    E all[n];
    std::memcpy(all, &v, sizeof(v));
    return sum_of_lanes<E, n>(all);
}

template <class V>
inline V square_root(V v) {
    constexpr int n = sizeof(V) / sizeof(v[0]);
    for (int i = 0; i < n; ++i) v[i] = std::sqrt(v[i]);
    return v;
}

}  // namespace uipe::tensor::cpu
