// exp that the compiler can vectorise: no branch, no call.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace uipe::tensor::cpu {

/// e^x for x <= 0, as softmax and the logistic function need it (and some way above 0: up to 88). To 2 ulp wherever it
/// is a normal number; exactly 0 below (x < ln 2^-126), NaN for NaN.
/// Cody and Waite's reduction x = n ln2 + r, |r| <= ln2/2, then the Taylor polynomial of degree 7 in r.
inline float fast_exp(float x) {
    constexpr float least = -87.3365447F;    // ln 2^-126
    constexpr float to_integer = 0x1.8p23F;  // adding it leaves the nearest integer in the low bits
    const float bounded = least > x ? least : x;
    const float shifted = bounded * 1.44269504F + to_integer;
    const float n = shifted - to_integer;
    const float r = (bounded - n * 0.693359375F) - n * -2.12194440e-4F;
    float p = 1.0F / 5040.0F;
    p = p * r + 1.0F / 720.0F;
    p = p * r + 1.0F / 120.0F;
    p = p * r + 1.0F / 24.0F;
    p = p * r + 1.0F / 6.0F;
    p = p * r + 0.5F;
    p = p * r + 1.0F;
    p = p * r + 1.0F;
    // 2^n: the bits of `shifted`, moved to the exponent's place, are n there, and all else has left at the top. They
    // are read, not converted, because the conversion of NaN is undefined.
    const float power = std::bit_cast<float>((std::bit_cast<std::uint32_t>(shifted) << 23) + 0x3F800000U);
    return x < least ? 0.0F : p * power;
}

inline double fast_exp(double x) { return std::exp(x); }

/// 1 / (1 + e^-x).
template <class A>
inline A sigmoid(A x) {
    const A e = fast_exp(x < A{0} ? x : -x);
    return (x < A{0} ? e : A{1}) / (A{1} + e);
}

}  // namespace uipe::tensor::cpu
