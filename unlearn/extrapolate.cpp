#include "unlearn/extrapolate.h"

#include <algorithm>
#include <cmath>

#include "tensor/ops.h"

namespace uipe::unlearn {
namespace {

/// The tensor of the initial weights that belongs to `w`.
const tensor::Tensor& counterpart(const llama::StateDict& initial, const std::string& name, const tensor::Tensor& w) {
    const auto found = initial.find(name);
    require_input(found != initial.end(), "the base model has no ", name,
                  "; --base must be the model that was unlearned");
    require_input(found->second.shape() == w.shape(), name, " has shape ", tensor::to_string(w.shape()),
                  " in the unlearned model and ", tensor::to_string(found->second.shape()),
                  " in the base; --base must be the model that was unlearned");
    return found->second;
}

}  // namespace

llama::StateDict extrapolated(const llama::StateDict& unlearned, const llama::StateDict& initial, double alpha) {
    require_input(std::isfinite(alpha), "--alpha must be a finite number");
    require_input(unlearned.size() == initial.size(), "the base model has ", initial.size(),
                  " tensors, the unlearned one ", unlearned.size(), "; --base must be the model that was unlearned");
    llama::StateDict out;
    for (const auto& [name, w] : unlearned) {
        const tensor::Tensor y = tensor::Tensor::empty(w.shape(), w.dtype());
        tensor::extrapolate(y, w, counterpart(initial, name, w), alpha);
        out[name] = y;
    }
    return out;
}

namespace {

/// x[N,r] and y[N,q] side by side, times a and b: in f64, rounded once to f32.
tensor::Tensor beside(const tensor::Tensor& x, double a, const tensor::Tensor& y, double b) {
    const auto scaled = [](const tensor::Tensor& m, double factor) {
        const tensor::Tensor wide = m.to(tensor::DType::f64).clone();
        tensor::axpby(wide, factor, wide.clone(), 0.0);
        return wide.to(tensor::DType::f32);
    };
    const std::int64_t columns = x.dim(1) + (y.defined() ? y.dim(1) : 0);
    const tensor::Tensor left = scaled(x, a);
    const tensor::Tensor right = y.defined() ? scaled(y, b) : tensor::Tensor();
    const tensor::Tensor out = tensor::Tensor::empty({x.dim(0), columns}, tensor::DType::f32);
    for (std::int64_t n = 0; n < x.dim(0); ++n) {
        float* row = out.data<float>() + n * columns;
        std::copy_n(left.data<float>() + n * x.dim(1), x.dim(1), row);
        if (y.defined()) std::copy_n(right.data<float>() + n * y.dim(1), y.dim(1), row + x.dim(1));
    }
    return out;
}

/// a[r,C] over b[q,C], in f32.
tensor::Tensor over(const tensor::Tensor& a, const tensor::Tensor& b) {
    const tensor::Tensor out =
        tensor::Tensor::empty({a.dim(0) + (b.defined() ? b.dim(0) : 0), a.dim(1)}, tensor::DType::f32);
    tensor::copy(out.rows(0, a.dim(0)), a);
    if (b.defined()) tensor::copy(out.rows(a.dim(0), out.dim(0)), b);
    return out;
}

}  // namespace

llama::Adapter extrapolated(const llama::Adapter& unlearned, const std::optional<llama::Adapter>& initial,
                            double alpha) {
    require_input(std::isfinite(alpha), "--alpha must be a finite number");
    require_input(!initial || initial->config.targets == unlearned.config.targets,
                  "the adapters of the base and of the unlearned model have other targets; --base must be what was "
                  "unlearned");
    if (alpha == 0.0) return unlearned;
    if (alpha == -1.0 && initial) return *initial;
    const double ratio = initial ? initial->config.scale() / unlearned.config.scale() : 0.0;
    llama::Adapter out{unlearned.config, {}};
    out.config.rank += initial ? initial->config.rank : 0;
    out.config.alpha *= static_cast<double>(out.config.rank) / static_cast<double>(unlearned.config.rank);
    for (const auto& [name, w] : unlearned.weights) {
        const tensor::Tensor w0 = initial ? initial->weights.at(name) : tensor::Tensor();
        out.weights[name] = name.ends_with("lora_A.weight") ? over(w, w0) : beside(w, 1.0 + alpha, w0, -alpha * ratio);
    }
    return out;
}

UpdateNorm update_norm(const llama::StateDict& unlearned, const llama::StateDict& initial) {
    double update = 0;
    double norm = 0;
    for (const auto& [name, w] : unlearned) {
        const tensor::Tensor& w0 = counterpart(initial, name, w);
        const tensor::Tensor d = tensor::Tensor::empty(w.shape(), tensor::DType::f32);
        tensor::axpby(d, 1.0, w, 0.0);
        tensor::axpby(d, -1.0, w0, 1.0);
        update += tensor::sum_of_squares(d);
        norm += tensor::sum_of_squares(w0);
    }
    return {std::sqrt(update), std::sqrt(norm)};
}

UpdateNorm update_norm(const llama::StateDict& weights, const llama::Adapter& unlearned,
                       const std::optional<llama::Adapter>& initial) {
    double update = 0;
    double norm = 0;
    for (const auto& [name, w] : weights) {
        const std::string matrix = name.substr(0, name.size() - std::string("weight").size());
        const auto added = [&](const llama::Adapter& adapter) {
            llama::Adapter one{adapter.config, {}};
            for (const char* part : {"lora_A.weight", "lora_B.weight"})
                one.weights[matrix + part] = adapter.weights.at(matrix + part);
            return llama::merged({{name, w}}, one).at(name);
        };
        const bool target = unlearned.weights.count(matrix + "lora_A.weight") != 0;
        const tensor::Tensor w0 = target && initial ? added(*initial) : w;
        norm += tensor::sum_of_squares(w0);
        if (!target) continue;
        const tensor::Tensor d = added(unlearned);
        tensor::axpby(d, -1.0, w0, 1.0);
        update += tensor::sum_of_squares(d);
    }
    return {std::sqrt(update), std::sqrt(norm)};
}

}  // namespace uipe::unlearn
