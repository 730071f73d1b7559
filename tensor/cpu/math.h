// exp that the compiler can vectorise: no branch, no call.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "tensor/cpu/simd.h"

namespace uipe::tensor::cpu {

/// e^x for x <= 0, as softmax and the logistic function need it (and some way above 0: up to 88). To 2 ulp wherever it
/// is a normal number; exactly 0 below (x < ln 2^-126), NaN for NaN. F is float or a vector of it, U its bits.
/// Cody and Waite's reduction x = n ln2 + r, |r| <= ln2/2, then the Taylor polynomial of degree 7 in r.
template <class F, class U>
inline F exp_of(F x) {
    constexpr float to_integer = 0x1.8p23F;  // adding it leaves the nearest integer in the low bits
    const F least = F{} + -87.3365447F;      // ln 2^-126
    const F bounded = least > x ? least : x;
    const F shifted = bounded * 1.44269504F + to_integer;
    const F n = shifted - to_integer;
    const F r = (bounded - n * 0.693359375F) - n * -2.12194440e-4F;
    F p = F{} + 1.0F / 5040.0F;
    p = p * r + 1.0F / 720.0F;
    p = p * r + 1.0F / 120.0F;
    p = p * r + 1.0F / 24.0F;
    p = p * r + 1.0F / 6.0F;
    p = p * r + 0.5F;
    p = p * r + 1.0F;
    p = p * r + 1.0F;
    // 2^n: the bits of `shifted`, moved to the exponent's place, are n there, and all else has left at the top. They
    // are read, not converted, because the conversion of NaN is undefined.
    const F power = std::bit_cast<F>((std::bit_cast<U>(shifted) << 23) + 0x3F800000U);
    return x < least ? F{} : p * power;
}

inline float fast_exp(float x) { return exp_of<float, std::uint32_t>(x); }
inline double fast_exp(double x) { return std::exp(x); }
inline Vector<float> fast_exp(const Vector<float>& x) { return exp_of<Vector<float>, Vector<std::uint32_t>>(x); }
inline Vector<double> fast_exp(Vector<double> x) {
    for (int i = 0; i < lanes<double>; ++i) x[i] = std::exp(x[i]);
    return x;
}

/// 1 / (1 + e^-x).
template <class V>
inline V sigmoid(const V& x) {
    const V e = fast_exp(V(x < V{} ? x : -x));
    return (x < V{} ? e : V{} + 1) / (e + 1);
}

}  // namespace uipe::tensor::cpu
