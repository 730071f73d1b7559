#include "bench/data.h"

#include <algorithm>
#include <cstring>

#include "tensor/ops.h"
#include "tensor/random.h"

namespace uipe::bench {

tensor::Tensor random_tensor(tensor::Shape shape, tensor::DType dtype, std::uint64_t seed) {
    // A block of a million numbers, again and again: drawing each one anew would take longer than the measurement.
    constexpr std::int64_t block = std::int64_t{1} << 20;
    tensor::Tensor y = tensor::Tensor::empty(std::move(shape), dtype);
    const std::int64_t n = y.numel();
    const tensor::Tensor flat = y.view({n});
    const tensor::Tensor first = flat.rows(0, std::min(block, n));
    tensor::fill_normal(first, 1.0, 1, seed);
    for (std::int64_t begin = block; begin < n; begin += block) {
        const tensor::Tensor part = flat.rows(begin, std::min(begin + block, n));
        std::memcpy(part.raw(), first.raw(), part.nbytes());
    }
    return y;
}

std::vector<std::int32_t> random_ids(std::int64_t n, std::int64_t V, std::uint64_t seed) {
    tensor::Random random(2, seed);
    std::vector<std::int32_t> ids;
    for (std::int64_t i = 0; i < n; ++i)
        ids.push_back(static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(V))));
    return ids;
}

std::vector<std::int64_t> qa_lengths(std::int64_t B) {
    constexpr std::int32_t shortest = 40;
    constexpr std::int32_t longest = 170;
    std::vector<std::int64_t> lengths;
    for (const std::int32_t extra : random_ids(B, longest - shortest + 1, 3)) lengths.push_back(shortest + extra);
    return lengths;
}

tensor::Tensor offsets(const std::vector<std::int64_t>& lengths) {
    std::vector<std::int32_t> cu{0};
    for (const std::int64_t n : lengths) cu.push_back(cu.back() + static_cast<std::int32_t>(n));
    return tensor::Tensor::from(cu);
}

double causal_pairs(const std::vector<std::int64_t>& lengths) {
    double pairs = 0.0;
    for (const std::int64_t n : lengths) pairs += static_cast<double>(n) * static_cast<double>(n + 1) / 2.0;
    return pairs;
}

}  // namespace uipe::bench
