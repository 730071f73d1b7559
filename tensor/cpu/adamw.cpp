// Compiled without fused products (CMakeLists.txt), as the kernel of the GPU: both give the same bits.
#include <cmath>

#include "tensor/cpu/cpu.h"
#include "tensor/cpu/simd.h"
#include "tensor/master.h"
#include "tensor/rounding.h"

namespace uipe::tensor::cpu {
namespace {

/// The indices of the elements of a vector, of which the first is `first`.
Vector<std::uint32_t> indices_from(std::uint32_t first) {
    Vector<std::uint32_t> out;
    for (std::uint32_t i = 0; i < lanes<std::uint32_t>; ++i) out[i] = first + i;
    return out;
}

/// The masters of w[…], of which `rest` holds what bf16 does not (master.h).
template <class Place, class P>
auto load_masters(const Place& at, const P* w, [[maybe_unused]] const bf16* rest) {
    if constexpr (std::is_same_v<P, bf16>) {
        using Bits = Vector<std::uint32_t>;
        return std::bit_cast<Vector<float>>(
            master_bits(std::bit_cast<Bits>(at.load(w)), std::bit_cast<Bits>(at.load(rest)) >> 16));
    } else {
        return at.load(w);
    }
}

template <class Place, class P, class V>
void store_masters(const Place& at, P* w, [[maybe_unused]] bf16* rest, const V& masters) {
    if constexpr (std::is_same_v<P, bf16>) {
        using Bits = Vector<std::uint32_t>;
        const auto weights = std::bit_cast<Bits>(rounded<bf16>(masters));
        at.store(w, Bits(weights >> 16));
        at.store(rest, Bits(rest_bits(std::bit_cast<Bits>(masters), weights)));
    } else {
        at.store(w, masters);
    }
}

template <class A, class P, class M>
void update(P* w, bf16* rest, M* m, M* v, const A* grad, std::int64_t n, const AdamWStep& s, double clip) {
    const auto step = static_cast<double>(s.step);
    const A decay = static_cast<A>(1.0 - s.lr * s.weight_decay);
    const A rate = static_cast<A>(s.lr / (1.0 - std::pow(s.beta1, step)));
    const A root = static_cast<A>(1.0 / std::sqrt(1.0 - std::pow(s.beta2, step)));
    const A beta1 = static_cast<A>(s.beta1);
    const A beta2 = static_cast<A>(s.beta2);
    // From f64: 1 - 0.999f is 5e-5 of itself away from 0.001, and the correction of the bias would not match it.
    const A rest1 = static_cast<A>(1.0 - s.beta1);
    const A rest2 = static_cast<A>(1.0 - s.beta2);
    const A eps = static_cast<A>(s.eps);
    const A scale = static_cast<A>(clip);
    [[maybe_unused]] const RoundingKey key(s.seed, s.stream, s.step);
    [[maybe_unused]] const auto first = static_cast<std::uint32_t>(s.first);
    parallel_vectors<A>(n, false, [=](auto at) {
        const auto g = at.load(grad) * scale;
        const auto mean = beta1 * at.load(m) + rest1 * g;
        const auto square = beta2 * at.load(v) + rest2 * g * g;
        store_masters(at, w, rest,
                      load_masters(at, w, rest) * decay - rate * mean / (square_root(square) * root + eps));
        if constexpr (std::is_same_v<A, M>) {
            at.store(m, mean);
            at.store(v, square);
        } else {
            const auto bits = rounding_bits(indices_from(first + static_cast<std::uint32_t>(at.i)), key);
            at.store(m, rounded_by(mean, bits));
            at.store(v, rounded_by(square, bits >> 16));
        }
    });
}

}  // namespace

void adamw(const Tensor& w, const Tensor& rest, const Tensor& m, const Tensor& v, const Tensor& grad,
           const AdamWStep& step) {
    double clip = 1.0;
    if (step.squares.defined()) {
        const double norm = std::sqrt(step.squares.item());
        if (!std::isfinite(norm)) return;
        if (step.max_norm > 0.0) clip = std::min(1.0, step.max_norm / (norm + 1e-6));
    }
    with_float(w.dtype(), [&]<class P>() {
        using A = acc_t<P>;
        const auto with_moments = [&]<class M>() {
            update(w.data<P>(), rest.defined() ? rest.data<bf16>() : nullptr, m.data<M>(), v.data<M>(), grad.data<A>(),
                   w.numel(), step, clip);
        };
        if constexpr (!std::is_same_v<A, double>)
            if (m.dtype() == DType::bf16) return with_moments.template operator()<bf16>();
        with_moments.template operator()<A>();
    });
}

}  // namespace uipe::tensor::cpu
