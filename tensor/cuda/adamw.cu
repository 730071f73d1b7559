// AdamW in one pass over memory: a thread takes four weights, reads them (of bf16 with what their masters have more),
// gradient and moments, and writes all but the gradient. The factor that clips comes from the norm on the device: the
// first thread of each block computes it while the others' reads are under way. Compiled without fused products
// (CMakeLists.txt), as the CPU's: both give the same bits.
#include <cmath>
#include <limits>

#include "tensor/cuda/floats.h"
#include "tensor/master.h"
#include "tensor/rounding.h"

namespace uipe::tensor::cuda {
namespace {

constexpr int block = 256;

/// What a step multiplies by; the bias corrections are those of f64.
struct Rates {
    float decay, rate, root, beta1, beta2, rest1, rest2, eps;
    double max_norm;
};

Rates rates_of(const AdamWStep& s) {
    const auto step = static_cast<double>(s.step);
    return {.decay = static_cast<float>(1.0 - s.lr * s.weight_decay),
            .rate = static_cast<float>(s.lr / (1.0 - std::pow(s.beta1, step))),
            .root = static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(s.beta2, step))),
            .beta1 = static_cast<float>(s.beta1),
            .beta2 = static_cast<float>(s.beta2),
            // From f64: 1 - 0.999f is 5e-5 of itself away from 0.001.
            .rest1 = static_cast<float>(1.0 - s.beta1),
            .rest2 = static_cast<float>(1.0 - s.beta2),
            .eps = static_cast<float>(s.eps),
            .max_norm = s.max_norm};
}

constexpr float not_finite = -1.0F;

/// The gradient's factor, or not_finite.
__device__ inline float clip_of(const double* squares, double max_norm) {
    if (squares == nullptr) return 1.0F;
    if (!(*squares <= std::numeric_limits<double>::max())) return not_finite;
    if (max_norm <= 0.0) return 1.0F;
    return static_cast<float>(dev::min_of(1.0, max_norm / (dev::sqrt(*squares) + 1e-6)));
}

/// n numbers of 16 bits, moved at once.
template <int n>
struct alignas(2 * n) Bits {
    std::uint16_t at[n];
};

/// The masters of w[at … at + n), of which `rest` holds what bf16 does not (master.h).
template <int n, class P>
__device__ inline void read_masters(float (&masters)[n], const P* w, const bf16* rest, std::int64_t at) {
    if constexpr (std::is_same_v<P, float>) {
        read(masters, w + at);
    } else {
        const Bits<n> weights = *reinterpret_cast<const Bits<n>*>(w + at);
        const Bits<n> rests = *reinterpret_cast<const Bits<n>*>(rest + at);
        for (int i = 0; i < n; ++i)
            masters[i] = std::bit_cast<float>(
                master_bits<std::uint32_t>(static_cast<std::uint32_t>(weights.at[i]) << 16, rests.at[i]));
    }
}

template <int n, class P>
__device__ inline void write_masters(P* w, bf16* rest, std::int64_t at, const float (&masters)[n]) {
    if constexpr (std::is_same_v<P, float>) {
        write(w + at, masters);
    } else {
        Bits<n> weights, rests;
        for (int i = 0; i < n; ++i) {
            weights.at[i] = dev::to<bf16>(masters[i]).bits;
            rests.at[i] = static_cast<std::uint16_t>(
                rest_bits(std::bit_cast<std::uint32_t>(masters[i]), static_cast<std::uint32_t>(weights.at[i]) << 16));
        }
        *reinterpret_cast<Bits<n>*>(w + at) = weights;
        *reinterpret_cast<Bits<n>*>(rest + at) = rests;
    }
}

/// count: a multiple of n. first: the index of the first element in its parameter.
template <int n, class P, class M>
__global__ void adamw_kernel(P* w, bf16* rest, M* m, M* v, const float* grad, const double* squares, std::int64_t count,
                             Rates r, std::uint32_t first, RoundingKey rounding) {
    DEV_SHARED(float, clip, 1);
    const std::int64_t at = (static_cast<std::int64_t>(dev::block_x()) * block + dev::thread()) * n;
    float g[n] = {}, mean[n] = {}, square[n] = {}, master[n] = {};
    if (at < count) {
        read(g, grad + at);
        read(mean, m + at);
        read(square, v + at);
        read_masters(master, w, rest, at);
    }
    if (dev::thread() == 0) *clip = clip_of(squares, r.max_norm);
    dev::sync();
    if (at >= count || *clip == not_finite) return;
    for (int i = 0; i < n; ++i) {
        g[i] *= *clip;
        mean[i] = r.beta1 * mean[i] + r.rest1 * g[i];
        square[i] = r.beta2 * square[i] + r.rest2 * g[i] * g[i];
        master[i] = master[i] * r.decay - r.rate * mean[i] / (dev::sqrt(square[i]) * r.root + r.eps);
        if constexpr (!std::is_same_v<M, float>) {
            const std::uint32_t bits = rounding_bits(first + static_cast<std::uint32_t>(at + i), rounding);
            mean[i] = rounded_by(mean[i], bits);
            square[i] = rounded_by(square[i], bits >> 16);
        }
    }
    write(m + at, mean);
    write(v + at, square);
    write_masters(w, rest, at, master);
}

}  // namespace

void adamw(const Tensor& w, const Tensor& rest, const Tensor& m, const Tensor& v, const Tensor& grad,
           const AdamWStep& step) {
    with_float(w.dtype(), [&]<class P>() {
        with_float(m.dtype(), [&]<class M>() {
            const auto update = [&]<int n>(std::int64_t from, std::int64_t count) {
                launch(adamw_kernel<n, P, M>, {.grid = {ceil_div(count, std::int64_t{block} * n)}, .threads = block},
                       at<P>(w) + from, rest.defined() ? at<bf16>(rest) + from : nullptr, at<M>(m) + from,
                       at<M>(v) + from, at<float>(grad) + from, at_or_null<double>(step.squares), count, rates_of(step),
                       static_cast<std::uint32_t>(step.first + from), RoundingKey(step.seed, step.stream, step.step));
            };
            const std::int64_t n = w.numel();
            const std::int64_t whole = aligned(w, rest, m, v, grad) ? n / 4 * 4 : 0;
            update.template operator()<4>(0, whole);
            update.template operator()<1>(whole, n - whole);
        });
    });
}

}  // namespace uipe::tensor::cuda
