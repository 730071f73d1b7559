#include "unlearn/extrapolate.h"

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

}  // namespace uipe::unlearn
