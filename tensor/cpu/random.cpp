#include <cmath>
#include <numbers>

#include "tensor/cpu/cpu.h"
#include "tensor/parallel.h"
#include "tensor/random.h"

namespace uipe::tensor::cpu {

void fill_normal(const Tensor& y, double std, std::uint64_t seed, std::uint64_t stream) {
    with_float(y.dtype(), [&]<class T>() {
        T* out = y.data<T>();
        const std::int64_t n = y.numel();
        parallel_for((n + 3) / 4, 1024, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t b = begin; b < end; ++b) {
                const auto bits = philox(seed, stream, static_cast<std::uint64_t>(b));
                for (std::int64_t j = 0; j < 4 && 4 * b + j < n; ++j) {
                    const std::size_t pair = static_cast<std::size_t>(j) / 2 * 2;
                    const double radius = std::sqrt(-2.0 * std::log((bits[pair] + 0.5) * 0x1p-32));
                    const double angle = 2.0 * std::numbers::pi * bits[pair + 1] * 0x1p-32;
                    const double z = radius * (j % 2 == 0 ? std::cos(angle) : std::sin(angle));
                    out[4 * b + j] = static_cast<T>(std * z);
                }
            }
        });
    });
}

}  // namespace uipe::tensor::cpu
