#include "tensor/random.h"

#include <cmath>
#include <numbers>
#include <utility>

namespace uipe::tensor {

std::array<std::uint32_t, 4> philox(std::uint64_t seed, std::uint64_t stream, std::uint64_t index) {
    constexpr std::uint64_t m0 = 0xD2511F53;
    constexpr std::uint64_t m1 = 0xCD9E8D57;
    auto low = [](std::uint64_t x) { return static_cast<std::uint32_t>(x); };
    auto high = [](std::uint64_t x) { return static_cast<std::uint32_t>(x >> 32); };
    std::array<std::uint32_t, 4> c{low(index), high(index), low(stream), high(stream)};
    std::uint32_t k0 = low(seed);
    std::uint32_t k1 = high(seed);
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t p0 = m0 * c[0];
        const std::uint64_t p1 = m1 * c[2];
        c = {high(p1) ^ c[1] ^ k0, low(p1), high(p0) ^ c[3] ^ k1, low(p0)};
        k0 += 0x9E3779B9;
        k1 += 0xBB67AE85;
    }
    return c;
}

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
