// Stochastic rounding to bf16: up or down by chance, with the odds of where a number lies between its two neighbours,
// so that the mean of many roundings is the number itself (Gupta et al. 2015, equation 1). What is added to a bf16
// number arrives in the mean even where it is less than half of the last bit. One for all devices: the chance is a
// function of a key and of the element's index alone.
#pragma once

#include <bit>
#include <cstdint>

#include "tensor/random.h"

namespace uipe::tensor {

/// Turns 32 bits into 32 others, one to one, in which each bit of x decides about every one: lowbias32 of Chris
/// Wellons' hash-prospector (public domain). U is std::uint32_t or a vector of it.
template <class U>
constexpr U mixed(U x) {
    x = (x ^ (x >> 16)) * 0x7feb352dU;
    x = (x ^ (x >> 15)) * 0x846ca68bU;
    return x ^ (x >> 16);
}

/// What the elements of one parameter are rounded by in one step.
struct RoundingKey {
    RoundingKey(std::uint64_t seed, std::uint64_t stream, std::int64_t step) {
        const auto bits = philox(seed, stream, static_cast<std::uint64_t>(step));
        before = bits[0];
        between = bits[1];
    }
    std::uint32_t before, between;
};

/// The 32 random bits of the element at `index` of a parameter: enough for two roundings.
template <class U>
constexpr U rounding_bits(U index, const RoundingKey& key) {
    return mixed<U>(mixed<U>(index ^ key.before) + key.between);
}

/// x rounded to a number that bf16 has, by the lower 16 of `bits`. Infinity and NaN stay what they are. F is float or a
/// vector of it, U its bits.
template <class F, class U>
constexpr F rounded_by(F x, U bits) {
    const U u = std::bit_cast<U>(x);
    // The upper half is one larger when the lower half and the random bits carry: in lower / 2^16 of all cases.
    const U rounded = (u + (bits & 0xffffU)) & 0xffff0000U;
    return (u & 0x7fffffffU) > 0x7f800000U ? x : std::bit_cast<F>(rounded);
}

}  // namespace uipe::tensor
