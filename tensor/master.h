// A bf16 weight moves with an f32 master: a step of 1e-5 is less than half of the last bit of most weights, and would
// be lost. The weight is the master rounded to nearest, so what the master knows beyond it fits 16 bits, its `rest`:
// the distance from the one to the other in the master's last places, with a sign. Weight and rest are kept, 4 bytes,
// where a weight and a master would be 6. Bits of f32 grow with the number's size, across exponents, so the distance is
// one subtraction.
#pragma once

#include <cstdint>

#include "tensor/tensor.h"

namespace uipe::tensor {

/// The bits of a master, from those of its weight (as f32, the lower half zero) and its rest, below 2^16. U is
/// std::uint32_t or a vector of it.
template <class U>
constexpr U master_bits(U weight, U rest) {
    return weight + (rest ^ 0x8000U) - 0x8000U;
}

/// The rest, in the lower 16 bits, of a master and of its weight. A master half way between two bf16 numbers, of which
/// the weight is the one nearer to zero, is 2^15 places away, one more than 16 bits hold: it moves a place towards it.
template <class U>
constexpr U rest_bits(U master, U weight) {
    const U distance = master - weight;
    return distance - ((distance >> 15) & ~(distance >> 16) & 1U);
}

/// The masters of weights, on the host: f32 of bf16 weights and their rests (tensors of bf16 by name, for the 16 bits
/// of an element); the weights themselves where `rest` is undefined.
Tensor masters_of(const Tensor& weights, const Tensor& rest);

}  // namespace uipe::tensor
