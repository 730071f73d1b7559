// AdamW in one pass over memory: a thread takes four weights, reads gradient, master and moments, and writes moments,
// master and, where they are bf16, the weights. The factor that clips comes from the norm on the device: the first
// thread of each block computes it while the others' reads are under way. Compiled without fused products
// (CMakeLists.txt), as the CPU's: both give the same bits.
#include <cmath>
#include <limits>

#include "tensor/cuda/floats.h"
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

/// count: a multiple of n. first: the index of the first element in its parameter.
template <int n, class P, class M>
__global__ void adamw_kernel(P* param, float* master, M* m, M* v, const float* grad, const double* squares,
                             std::int64_t count, Rates r, std::uint32_t first, RoundingKey rounding) {
    DEV_SHARED(float, clip, 1);
    const std::int64_t at = (static_cast<std::int64_t>(dev::block_x()) * block + dev::thread()) * n;
    float g[n] = {}, mean[n] = {}, square[n] = {}, w[n] = {};
    if (at < count) {
        read(g, grad + at);
        read(mean, m + at);
        read(square, v + at);
        read(w, master + at);
    }
    if (dev::thread() == 0) *clip = clip_of(squares, r.max_norm);
    dev::sync();
    if (at >= count || *clip == not_finite) return;
    for (int i = 0; i < n; ++i) {
        g[i] *= *clip;
        mean[i] = r.beta1 * mean[i] + r.rest1 * g[i];
        square[i] = r.beta2 * square[i] + r.rest2 * g[i] * g[i];
        w[i] = w[i] * r.decay - r.rate * mean[i] / (dev::sqrt(square[i]) * r.root + r.eps);
        if constexpr (!std::is_same_v<M, float>) {
            const std::uint32_t bits = rounding_bits(first + static_cast<std::uint32_t>(at + i), rounding);
            mean[i] = rounded_by(mean[i], bits);
            square[i] = rounded_by(square[i], bits >> 16);
        }
    }
    write(m + at, mean);
    write(v + at, square);
    write(master + at, w);
    if constexpr (!std::is_same_v<P, float>) write(param + at, w);
}

}  // namespace

void adamw(const Tensor& param, const Tensor& master, const Tensor& m, const Tensor& v, const Tensor& grad,
           const AdamWStep& step) {
    with_float(param.dtype(), [&]<class P>() {
        with_float(m.dtype(), [&]<class M>() {
            const auto update = [&]<int n>(std::int64_t from, std::int64_t count) {
                launch(adamw_kernel<n, P, M>, {.grid = {ceil_div(count, std::int64_t{block} * n)}, .threads = block},
                       at<P>(param) + from, at<float>(master) + from, at<M>(m) + from, at<M>(v) + from,
                       at<float>(grad) + from, at_or_null<double>(step.squares), count, rates_of(step),
                       static_cast<std::uint32_t>(step.first + from), RoundingKey(step.seed, step.stream, step.step));
            };
            const std::int64_t n = param.numel();
            const std::int64_t whole = aligned(param, master, m, v, grad) ? n / 4 * 4 : 0;
            update.template operator()<4>(0, whole);
            update.template operator()<1>(whole, n - whole);
        });
    });
}

}  // namespace uipe::tensor::cuda
