// Vectors of the accumulator's type, by the compiler's vector extension: arithmetic is written with + and *, and every
// processor's own instructions come out. Tensors of bf16 are widened on load and rounded to nearest even on store.
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#endif

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

/// Eight, sixteen … numbers of bf16, as many as a vector of the accumulator's type has lanes.
using Halves [[gnu::vector_size(vector_bytes / 2), gnu::may_alias]] = std::uint16_t;

inline Vector<float> widened(const Halves& bits) {
#if defined(__AVX512BW__)
    // One permutation that puts each number above sixteen zeros; the portable form below takes three instructions.
    const Vector<std::uint32_t> source{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return std::bit_cast<Vector<float>>(_mm512_maskz_permutexvar_epi16(
        0xAAAAAAAA, std::bit_cast<__m512i>(source << 16), _mm512_castsi256_si512(std::bit_cast<__m256i>(bits))));
#else
    return std::bit_cast<Vector<float>>(__builtin_convertvector(bits, Vector<std::uint32_t>) << 16);
#endif
}

inline Halves narrowed(const Vector<float>& v) {
#if defined(__AVX512BF16__) && defined(__AVX512DQ__)
    // The instruction rounds alike, but takes denormal numbers for zero and keeps a NaN's bits.
    constexpr int nan_or_denormal = 0x01 | 0x80 | 0x20;
    const auto x = std::bit_cast<__m512>(v);
    if (_mm512_fpclass_ps_mask(x, nan_or_denormal) == 0) [[likely]]
        return std::bit_cast<Halves>(_mm512_cvtneps_pbh(x));
#endif
    const auto u = std::bit_cast<Vector<std::uint32_t>>(v);
    const auto rounded = (u + 0x7fffU + ((u >> 16) & 1U)) >> 16;
    const auto bits = (u & 0x7fffffffU) > 0x7f800000U ? Vector<std::uint32_t>{} + 0x7fffU : rounded;  // NaN
    return __builtin_convertvector(bits, Halves);
}

/// The lanes x[0 … lanes) of a tensor, in the accumulator's type.
template <class T>
inline auto load(const T* x) {
    if constexpr (std::is_same_v<T, bf16>) {
        Halves bits;
        std::memcpy(&bits, x, sizeof(bits));
        return widened(bits);
    } else {
        Vector<T> v;
        std::memcpy(&v, x, sizeof(v));
        return v;
    }
}

/// A vector of the accumulator's type as a tensor of T holds it; of integers, the bits of numbers of bf16.
template <class T, class V>
inline auto stored(const V& v) {
    if constexpr (std::is_same_v<T, bf16> && std::is_integral_v<std::remove_cvref_t<decltype(v[0])>>)
        return __builtin_convertvector(v, Halves);
    else if constexpr (std::is_same_v<T, bf16>)
        return narrowed(v);
    else
        return v;
}

/// The vector that a store to a tensor of T and a load would give.
template <class T, class V>
inline V rounded(const V& v) {
    if constexpr (std::is_same_v<T, bf16>)
        return widened(narrowed(v));
    else
        return v;
}

template <class T, class V>
inline void store(T* y, const V& v) {
    const auto bits = stored<T>(v);
    std::memcpy(static_cast<void*>(y), &bits, sizeof(bits));
}

/// The same past the caches, where the processor has such stores: y is aligned to what it takes. Stores of other
/// threads follow only after a fence.
template <class T, class V>
inline void stream(T* y, const V& v) {
    const auto bits = stored<T>(v);
#if defined(__AVX512F__)
    if constexpr (sizeof(bits) == 64)
        return _mm512_stream_si512(reinterpret_cast<__m512i*>(y), std::bit_cast<__m512i>(bits));
#endif
#if defined(__AVX__)
    if constexpr (sizeof(bits) == 32)
        return _mm256_stream_si256(reinterpret_cast<__m256i*>(y), std::bit_cast<__m256i>(bits));
#endif
#if defined(__SSE2__)
    if constexpr (sizeof(bits) == 16)
        return _mm_stream_si128(reinterpret_cast<__m128i*>(y), std::bit_cast<__m128i>(bits));
#endif
    std::memcpy(static_cast<void*>(y), &bits, sizeof(bits));
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

/// … the same, whose stores leave the caches to what is read again …
struct Streamed : Whole {
    template <class T, class V>
    void store(T* y, const V& v) const {
        cpu::stream(y + i, v);
    }
};

/// … or the first `n` of them, at the end of a range. The lanes beyond are zero, and are not stored.
struct Part {
    std::int64_t i, n;

#if defined(__AVX512BW__) && defined(__AVX512VL__) && !defined(__SANITIZE_ADDRESS__)
    // By masks: `all` below is written in parts and read whole, which waits for the cache. (AddressSanitizer does not
    // watch these instructions.)
    __mmask16 first_n() const { return static_cast<__mmask16>((1U << n) - 1U); }
    auto load(const float* x) const { return std::bit_cast<Vector<float>>(_mm512_maskz_loadu_ps(first_n(), x + i)); }
    auto load(const bf16* x) const {
        return widened(std::bit_cast<Halves>(_mm256_maskz_loadu_epi16(first_n(), x + i)));
    }
    void store(float* y, const Vector<float>& v) const {
        _mm512_mask_storeu_ps(y + i, first_n(), std::bit_cast<__m512>(v));
    }
    template <class V>
    void store(bf16* y, const V& v) const {
        _mm256_mask_storeu_epi16(y + i, first_n(), std::bit_cast<__m256i>(stored<bf16>(v)));
    }
#endif

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
template <class A, class Place = Whole, class Body>
inline void each_vector(std::int64_t begin, std::int64_t end, const Body& body) {
    std::int64_t i = begin;
    for (; i + lanes<A> <= end; i += lanes<A>) body(Place{i});
    if (i < end) body(Part{i, end - i});
}

/// Whether stores of n elements, in rows of `row`, should pass the caches by: the output is larger than they are, so
/// that whoever reads it next finds it in memory anyway, and every row begins where a streaming store may. A plain
/// store reads a line before it writes it; outputs that are also read gain nothing.
template <class T>
bool outgrows_caches(const T* y, std::int64_t n, std::int64_t row = vector_bytes) {
    constexpr std::int64_t caches = std::int64_t{32} << 20;  // bytes: the last level of common processors
    constexpr auto size = static_cast<std::int64_t>(sizeof(T));
    return n * size > caches && row * size % vector_bytes == 0 &&
           reinterpret_cast<std::uintptr_t>(y) % vector_bytes == 0;
}

/// Calls body<Place>() with the kind of place that stores are to have, and orders streamed ones before all later ones.
template <class Body>
inline void with_place(bool streamed, const Body& body) {
    if (!streamed) return body.template operator()<Whole>();
    body.template operator()<Streamed>();
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

/// Elements that a thread takes at least: below this a second one costs more than it saves.
inline constexpr std::int64_t grain = 16384;

/// each_vector over [0, n) on all threads. `streamed`: outgrows_caches() of every output.
template <class A, class Body>
void parallel_vectors(std::int64_t n, bool streamed, const Body& body) {
    const std::int64_t vectors = ceil_div(n, lanes<A>);
    // Not inlined: copies for one thread and for many may fuse other products and sums, and differ by a bit.
    const auto range = [&](std::int64_t begin, std::int64_t end) __attribute__((noinline)) {
        with_place(streamed,
                   [&]<class Place>() { each_vector<A, Place>(begin * lanes<A>, std::min(n, end * lanes<A>), body); });
    };
    parallel_for(vectors, grain / lanes<A>, range);
}

/// The same in two steps, keep(at, compute(at)): several vectors are computed before one is stored, so that a compiler
/// that may reorder (-fschedule-insns) computes them in turns. One long chain leaves a processor no room to look for
/// the next vector's.
template <class A, class Compute, class Keep>
void parallel_vectors(std::int64_t n, bool streamed, const Compute& compute, const Keep& keep) {
    constexpr int several = 4;
    constexpr std::int64_t step = several * lanes<A>;
    const auto range = [&](std::int64_t begin, std::int64_t end) __attribute__((noinline)) {
        with_place(streamed, [&]<class Place>() {
            std::int64_t i = begin * step;
            for (; i + step <= std::min(n, end * step); i += step) {
                decltype(compute(Place{i})) results[several];
#pragma GCC unroll 4
                for (int k = 0; k < several; ++k) results[k] = compute(Place{i + k * lanes<A>});
#pragma GCC unroll 4
                for (int k = 0; k < several; ++k) keep(Place{i + k * lanes<A>}, results[k]);
            }
            each_vector<A, Place>(i, std::min(n, end * step), [&](auto at) { keep(at, compute(at)); });
        });
    };
    parallel_for(ceil_div(n, step), grain / step, range);
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

/// The sum of term(place) over [0, n), in four chains that do not wait for one another: always in the same order.
template <class A, class Term>
inline A sum_over(std::int64_t n, const Term& term) {
    Vector<A> sums[4] = {};
    const std::int64_t whole = n / (4 * lanes<A>)*(4 * lanes<A>);
    for (std::int64_t i = 0; i < whole; i += 4 * lanes<A>)
        for (int k = 0; k < 4; ++k) sums[k] += term(Whole{i + k * lanes<A>});
    each_vector<A>(whole, n, [&](auto at) { sums[0] += term(at); });
    return sum_of((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

template <class V>
inline V square_root(V v) {
    constexpr int n = sizeof(V) / sizeof(v[0]);
    for (int i = 0; i < n; ++i) v[i] = std::sqrt(v[i]);
    return v;
}

}  // namespace uipe::tensor::cpu
