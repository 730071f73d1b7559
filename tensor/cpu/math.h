// exp that the compiler can vectorise: no branch, no call.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace uipe::tensor::cpu {

/// e^x to 2 ulp wherever it is a normal number; exactly 0 below (x < ln 2^-126), infinity above, NaN for NaN.
/// Cody and Waite's reduction x = n ln2 + r, |r| <= ln2/2, then the Taylor polynomial of degree 7 in r.
inline float fast_exp(float x) {
    constexpr float least = -87.3365447F;              // ln 2^-126
    constexpr float to_integer = 0x1.8p23F;            // adding it leaves the nearest integer in the low bits
    constexpr std::int32_t integer_bits = 0x4B400000;  // its own bits
    const float bounded = x < least ? least : (x > 89.0F ? 89.0F : x);
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
    // 2^n in two factors: n = 128 does not fit one exponent field. The bits are read, not converted, because the
    // conversion of NaN is undefined.
    const std::int32_t whole = std::bit_cast<std::int32_t>(shifted) - integer_bits;
    const std::int32_t half = whole >> 1;
    const float y = p * std::bit_cast<float>((half + 127) << 23) * std::bit_cast<float>((whole - half + 127) << 23);
    return x < least ? 0.0F : y;
}

inline double fast_exp(double x) { return std::exp(x); }

}  // namespace uipe::tensor::cpu
