// The mask of dropout, one for all devices: an element's fate is decided by where it stands, not by what it is beside.
#pragma once

#include <algorithm>
#include <cmath>

#include "tensor/random.h"

namespace uipe::tensor {

/// Who is dropped: of each element's 32 random bits, those below `least`; what stays is multiplied by `factor`.
struct Dropout {
    Dropout(double p, std::uint64_t of_seed, std::uint64_t of_stream)
        : seed(of_seed),
          stream(of_stream),
          least(static_cast<std::uint32_t>(std::min(std::ldexp(p, 32), std::ldexp(1.0, 32) - 1.0))),
          factor(1.0 / (1.0 - p)) {}

    std::uint64_t seed, stream;
    std::uint32_t least;
    double factor;
};

/// The block of random bits for elements 4 i to 4 i + 3 of the row of C at `place`; every row begins with a fresh one.
constexpr std::uint64_t dropout_block(std::int32_t place, std::int64_t C, std::int64_t i) {
    return static_cast<std::uint64_t>(place) * static_cast<std::uint64_t>((C + 3) / 4) + static_cast<std::uint64_t>(i);
}

}  // namespace uipe::tensor
