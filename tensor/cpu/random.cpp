#include <cmath>
#include <numbers>

#include "tensor/cpu/cpu.h"
#include "tensor/cpu/simd.h"
#include "tensor/dropout.h"
#include "tensor/parallel.h"

namespace uipe::tensor::cpu {
namespace {

/// y[i] = draw(bits, i % 4), from the block of 128 bits that four neighbours share.
template <class Draw>
void fill_random(const Tensor& y, std::uint64_t seed, std::uint64_t stream, const Draw& draw) {
    with_float(y.dtype(), [&]<class T>() {
        T* out = y.data<T>();
        const std::int64_t n = y.numel();
        parallel_for((n + 3) / 4, 1024, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t b = begin; b < end; ++b) {
                const auto bits = philox(seed, stream, static_cast<std::uint64_t>(b));
                for (std::int64_t j = 0; j < 4 && 4 * b + j < n; ++j)
                    out[4 * b + j] = static_cast<T>(draw(bits, static_cast<std::size_t>(j)));
            }
        });
    });
}

}  // namespace

void fill_normal(const Tensor& y, double std, std::uint64_t seed, std::uint64_t stream) {
    fill_random(y, seed, stream, [std](const std::array<std::uint32_t, 4>& bits, std::size_t j) {
        const std::size_t pair = j / 2 * 2;
        const double radius = std::sqrt(-2.0 * std::log((bits[pair] + 0.5) * 0x1p-32));
        const double angle = 2.0 * std::numbers::pi * bits[pair + 1] * 0x1p-32;
        return std * (radius * (j % 2 == 0 ? std::cos(angle) : std::sin(angle)));
    });
}

void fill_uniform(const Tensor& y, double bound, std::uint64_t seed, std::uint64_t stream) {
    fill_random(y, seed, stream, [bound](const std::array<std::uint32_t, 4>& bits, std::size_t j) {
        return bound * ((bits[j] + 0.5) * 0x1p-31 - 1.0);
    });
}

namespace {

/// Elements whose factors are made at once: 16 blocks of random bits, the lanes of a vector.
constexpr std::int64_t blocks_at_once = 16;
constexpr std::int64_t at_once = 4 * blocks_at_once;

/// factors[i] of the elements from block `first` on: `factor`, or 0 where dropped.
template <class A>
void draw_factors(A (&factors)[at_once], const Dropout& d, std::uint64_t first) {
    std::uint32_t bits[4][blocks_at_once];
    for (std::uint64_t b = 0; b < blocks_at_once; ++b) {
        const auto block = philox(d.seed, d.stream, first + b);
        for (std::size_t j = 0; j < 4; ++j) bits[j][b] = block[j];
    }
    for (std::int64_t i = 0; i < at_once; ++i)
        factors[i] = bits[i % 4][i / 4] >= d.least ? static_cast<A>(d.factor) : A{0};
}

}  // namespace

void dropout(const Tensor& y, const Tensor& x, const Tensor& places, double p, std::uint64_t seed, std::uint64_t stream,
             bool accumulate) {
    const Dropout d(p, seed, stream);
    const std::int64_t C = x.dim(1);
    with_float(x.dtype(), [&]<class T>() {
        using A = acc_t<T>;
        // Not inlined, as in parallel_vectors.
        const auto rows = [&](std::int64_t begin, std::int64_t end) __attribute__((noinline)) {
            A factors[at_once];
            for (std::int64_t t = begin; t < end; ++t)
                for (std::int64_t c = 0; c < C; c += at_once) {
                    draw_factors(factors, d, dropout_block(places.data<std::int32_t>()[t], C, c / 4));
                    const T* in = x.data<T>() + t * C + c;
                    T* out = y.data<T>() + t * C + c;
                    each_vector<A>(0, std::min(at_once, C - c), [&](auto at) {
                        const auto kept = at.load(in) * at.load(factors);
                        at.store(out, accumulate ? at.load(out) + kept : kept);
                    });
                }
        };
        parallel_for(x.dim(0), std::max<std::int64_t>(1, 1024 / std::max<std::int64_t>(1, C)), rows);
    });
}

}  // namespace uipe::tensor::cpu
