// exp that the compiler can vectorise: no branch, no call.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace uipe::tensor::cpu {

/// e^x to 2 ulp for x in [-87.3, 88.7]; exactly 0 below, about 3.4e38 above; NaN stays NaN.
/// Cody and Waite's reduction x = n ln2 + r, |r| <= ln2/2, then the Taylor polynomial of degree 7 in r.
inline float fast_exp(float x) {
    const float bounded = x < -87.3F ? -87.3F : (x > 88.72F ? 88.72F : x);
    const float n = __builtin_floorf(bounded * 1.44269504F + 0.5F);
    const float r = (bounded - n * 0.693359375F) - n * -2.12194440e-4F;
    float p = 1.98412698e-4F;
    p = p * r + 1.38888889e-3F;
    p = p * r + 8.33333333e-3F;
    p = p * r + 4.16666667e-2F;
    p = p * r + 1.66666667e-1F;
    p = p * r + 0.5F;
    p = p * r + 1.0F;
    p = p * r + 1.0F;
    // 2^n in two factors, so that n = 128 does not overflow the exponent field.
    const auto half = static_cast<std::int32_t>(n) / 2;
    const auto rest = static_cast<std::int32_t>(n) - half;
    const float y = p * std::bit_cast<float>((half + 127) << 23) * std::bit_cast<float>((rest + 127) << 23);
    return x < -87.3F ? 0.0F : y;
}

inline double fast_exp(double x) { return std::exp(x); }

}  // namespace uipe::tensor::cpu
