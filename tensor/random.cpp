#include "tensor/random.h"

#include <cmath>
#include <numbers>
#include <utility>

namespace uipe::tensor {

std::uint32_t Random::bits() {
    if (used_ == 4) {
        block_ = philox(seed_, stream_, index_++);
        used_ = 0;
    }
    return block_[static_cast<std::size_t>(used_++)];
}

double Random::uniform() {
    const std::uint64_t high = bits() >> 5;
    const std::uint64_t low = bits() >> 6;
    return static_cast<double>((high << 26) | low) * 0x1p-53;
}

double Random::normal() {
    const double radius = std::sqrt(-2.0 * std::log1p(-uniform()));
    return radius * std::cos(2.0 * std::numbers::pi * uniform());
}

std::uint64_t Random::below(std::uint64_t n) {
    const std::uint64_t limit = n * (~std::uint64_t{0} / n);  // the largest multiple of n that fits
    for (;;) {
        const std::uint64_t high = bits();
        const std::uint64_t draw = (high << 32) | bits();
        if (draw < limit) return draw % n;
    }
}

std::vector<std::int64_t> Random::permutation(std::int64_t n) {
    std::vector<std::int64_t> order(static_cast<std::size_t>(n));
    std::iota(order.begin(), order.end(), 0);
    for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[below(i)]);
    return order;
}

}  // namespace uipe::tensor
