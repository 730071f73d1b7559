// Counter-based random numbers: Philox4x32-10 (Salmon et al. 2011). A value is a pure function of
// (seed, stream, index), so nothing has to be saved to resume and no order of evaluation can change it.
#pragma once

#include <array>
#include <cstdint>
#include <numeric>
#include <vector>

namespace uipe::tensor {

/// The 128 random bits of block `index` of stream `stream`. For kernels too.
constexpr std::array<std::uint32_t, 4> philox(std::uint64_t seed, std::uint64_t stream, std::uint64_t index) {
    constexpr std::uint64_t m0 = 0xD2511F53;
    constexpr std::uint64_t m1 = 0xCD9E8D57;
    const auto low = [](std::uint64_t x) { return static_cast<std::uint32_t>(x); };
    const auto high = [](std::uint64_t x) { return static_cast<std::uint32_t>(x >> 32); };
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

/// Draws one after another from one stream.
class Random {
public:
    Random(std::uint64_t seed, std::uint64_t stream) : seed_(seed), stream_(stream) {}
    std::uint32_t bits();
    /// Uniform on [0, 1) with 53 random bits.
    double uniform();
    /// Standard normal (Box-Muller).
    double normal();
    /// Uniform on {0, …, n-1}, unbiased. n > 0.
    std::uint64_t below(std::uint64_t n);
    /// A random permutation of 0 … n-1 (Fisher-Yates).
    std::vector<std::int64_t> permutation(std::int64_t n);

private:
    std::uint64_t seed_;
    std::uint64_t stream_;
    std::uint64_t index_ = 0;
    std::array<std::uint32_t, 4> block_{};
    int used_ = 4;
};

}  // namespace uipe::tensor
