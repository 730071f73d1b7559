// exp that the compiler can vectorise: no branch, no call.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "tensor/cpu/simd.h"

namespace uipe::tensor::cpu {

/// p 2^n, where `shifted` is n + to_integer of exp_of. F is float or a vector of it, U its bits.
template <class F, class U>
inline F times_power(F p, [[maybe_unused]] F n, F shifted) {
#if defined(__AVX512F__)
    if constexpr (sizeof(F) ==
                  vector_bytes)  // every lane kept: the plain forms of the intrinsics draw warnings of GCC 12
        return std::bit_cast<F>(_mm512_maskz_scalef_ps(0xFFFF, std::bit_cast<__m512>(p), std::bit_cast<__m512>(n)));
#endif
    // The bits of `shifted`, moved to the exponent's place, are n there, and all else has left at the top. They are
    // read, not converted, because the conversion of NaN is undefined.
    return p * std::bit_cast<F>((std::bit_cast<U>(shifted) << 23) + 0x3F800000U);
}

/// e^x for x <= 0, as softmax and the logistic function need it (and some way above 0: up to 88). To 2 ulp wherever it
/// is a normal number; exactly 0 below (x < ln 2^-126), NaN for NaN. F is float or a vector of it, U its bits.
/// Cody and Waite's reduction x = n ln2 + r, |r| <= ln2/2, then 1 + r + r^2 q(r), the polynomial of degree 6 whose
/// relative error is least there: 3.1e-9.
template <class F, class U>
inline F exp_of(F x) {
    constexpr float to_integer = 0x1.8p23F;  // adding it leaves the nearest integer in the low bits
    const F least = F{} + -87.3365447F;      // ln 2^-126
    const F shifted = x * 1.44269504F + to_integer;
    const F n = shifted - to_integer;
    const F r = (x - n * 0.693359375F) - n * -2.12194440e-4F;
    F p = F{} + 0x1.6a23dp-10F;
    p = p * r + 0x1.123a2p-7F;
    p = p * r + 0x1.5558f2p-5F;
    p = p * r + 0x1.555492p-3F;
    p = p * r + 0x1.fffffcp-2F;
    p = p * r + 1.0F;
    p = p * r + 1.0F;
    return x < least ? F{} : times_power<F, U>(p, n, shifted);
}

inline float fast_exp(float x) { return exp_of<float, std::uint32_t>(x); }
inline double fast_exp(double x) { return std::exp(x); }
inline Vector<float> fast_exp(const Vector<float>& x) { return exp_of<Vector<float>, Vector<std::uint32_t>>(x); }
inline Vector<double> fast_exp(Vector<double> x) {
    for (int i = 0; i < lanes<double>; ++i) x[i] = std::exp(x[i]);
    return x;
}

/// 1 / x for 1 <= x <= 2, to 2 ulp.
inline Vector<double> reciprocal(const Vector<double>& x) { return 1.0 / x; }
inline Vector<float> reciprocal(const Vector<float>& x) {
#if defined(__AVX512F__)
    // 14 bits and a step of Newton's, which doubles them: a third of a division's time.
    const auto y = std::bit_cast<Vector<float>>(_mm512_maskz_rcp14_ps(0xFFFF, std::bit_cast<__m512>(x)));
    return y * (1.0F - x * y) + y;
#else
    return 1.0F / x;
#endif
}

/// -|x|.
inline Vector<double> less_magnitude(const Vector<double>& x) { return x < 0.0 ? x : -x; }
inline Vector<float> less_magnitude(const Vector<float>& x) {
    return std::bit_cast<Vector<float>>(std::bit_cast<Vector<std::uint32_t>>(x) | 0x80000000U);
}

/// 1 / (1 + e^-x).
template <class V>
inline V sigmoid(const V& x) {
    const V e = fast_exp(less_magnitude(x));
    return (x < V{} ? e : V{} + 1) * reciprocal(V(e + 1));
}

}  // namespace uipe::tensor::cpu
