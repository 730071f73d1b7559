// Sizes of the memory that ops take for themselves: the backends take it, and plans count it (tensor/meta).
#pragma once

#include <algorithm>
#include <cstdint>

#include "tensor/tensor.h"

namespace uipe::tensor {

/// The rows of logits that a head holds at once, in the accumulator's type. CPU: 64 MiB of f32, in whole register
/// tiles. GPU: 128 MiB, enough rows for the product to run at its full rate (1024 for a vocabulary of 32000), in whole
/// tiles.
inline std::int64_t head_chunk(std::int64_t V, Device::Kind kind) {
    const bool cpu = kind == Device::Kind::cpu;
    const std::int64_t elements = std::int64_t{1} << (cpu ? 24 : 25);
    return std::max<std::int64_t>(16, elements / V & ~std::int64_t{cpu ? 63 : 127});
}

/// The sums that the gradient of a norm's weight is made of, each over consecutive rows of `rows`. CPU: 64 rows each.
/// GPU: enough sums to fill the largest chip.
inline std::int64_t norm_group(std::int64_t rows, Device::Kind kind) {
    constexpr std::int64_t most_groups = 512;
    return kind == Device::Kind::cpu ? 64 : std::max<std::int64_t>(1, (rows + most_groups - 1) / most_groups);
}

}  // namespace uipe::tensor
