// Counter-based random numbers: Philox4x32-10 (Salmon et al. 2011). A value is a pure function of
// (seed, stream, index), so nothing has to be saved to resume and no order of evaluation can change it.
#pragma once

#include <array>
#include <cstdint>
#include <numeric>
#include <vector>

namespace uipe::tensor {

/// The 128 random bits of block `index` of stream `stream`.
std::array<std::uint32_t, 4> philox(std::uint64_t seed, std::uint64_t stream, std::uint64_t index);

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
