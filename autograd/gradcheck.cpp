#include "autograd/gradcheck.h"

#include <algorithm>
#include <cmath>

#include "autograd/ops.h"
#include "tensor/ops.h"

namespace uipe::autograd {
namespace {

double weighted(const Tensor& y, const Tensor& weights) {
    double s = 0.0;
    for (std::int64_t i = 0; i < y.numel(); ++i) s += y.data<double>()[i] * weights.data<double>()[i];
    return s;
}

}  // namespace

GradCheck gradcheck(const std::function<Variable()>& f, const std::vector<Variable>& inputs, std::int64_t limit) {
    constexpr double h = 1e-3;
    for (const Variable& x : inputs) {
        require(x.value().dtype() == tensor::DType::f64, "gradcheck works in f64");
        x.clear_grad();
    }
    const Variable y = f();
    const Tensor weights = Tensor::empty(y.value().shape(), tensor::DType::f64);
    if (weights.numel() == 1)
        tensor::fill(weights, 1.0);  // a random weight may be next to nothing, and every error with it
    else
        tensor::fill_normal(weights, 1.0, 7, 0);
    backward(y, weights);

    const NoGrad guard;
    GradCheck result;
    for (std::size_t k = 0; k < inputs.size(); ++k) {
        double* x = inputs[k].value().data<double>();
        const std::int64_t n = inputs[k].value().numel();
        const Tensor grad = inputs[k].grad();
        const std::int64_t stride = std::max<std::int64_t>(1, n / limit);
        for (std::int64_t i = 0; i < n; i += stride) {
            const double kept = x[i];
            auto at = [&](double offset) {
                x[i] = kept + offset;
                const double value = weighted(f().value(), weights);
                x[i] = kept;
                return value;
            };
            const double numeric = (8.0 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12.0 * h);
            const double analytic = grad.defined() ? grad.data<double>()[i] : 0.0;
            const double error = std::abs(analytic - numeric) / std::max({1.0, std::abs(analytic), std::abs(numeric)});
            if (!(error <= result.worst)) {  // NaN counts as worst
                result.worst = error;
                result.place = cat("input ", k, " element ", i, ": analytic ", analytic, ", numeric ", numeric);
            }
        }
    }
    return result;
}

}  // namespace uipe::autograd
