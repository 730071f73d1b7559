#include <cmath>

#include "tensor/cpu/cpu.h"
#include "tensor/cpu/simd.h"

namespace uipe::tensor::cpu {
namespace {

template <class A, class P>
void update(P* param, A* master, A* m, A* v, const A* grad, std::int64_t n, const AdamWStep& s, double clip) {
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
    parallel_vectors<A>(n, false, [=](auto at) {
        const auto g = at.load(grad) * scale;
        const auto mean = beta1 * at.load(m) + rest1 * g;
        const auto square = beta2 * at.load(v) + rest2 * g * g;
        const auto w = at.load(master) * decay - rate * mean / (square_root(square) * root + eps);
        at.store(m, mean);
        at.store(v, square);
        at.store(master, w);
        if constexpr (!std::is_same_v<A, P>) at.store(param, w);
    });
}

}  // namespace

void adamw(const Tensor& param, const Tensor& master, const Tensor& m, const Tensor& v, const Tensor& grad,
           const AdamWStep& step) {
    double clip = 1.0;
    if (step.squares.defined()) {
        const double norm = std::sqrt(step.squares.item());
        if (!std::isfinite(norm)) return;
        if (step.max_norm > 0.0) clip = std::min(1.0, step.max_norm / (norm + 1e-6));
    }
    with_float(param.dtype(), [&]<class P>() {
        using A = acc_t<P>;
        update(param.data<P>(), master.data<A>(), m.data<A>(), v.data<A>(), grad.data<A>(), param.numel(), step, clip);
    });
}

}  // namespace uipe::tensor::cpu
