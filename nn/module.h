// Parameters and the modules that own them.
#pragma once

#include <string>
#include <vector>

#include "autograd/variable.h"

namespace uipe::nn {

using autograd::Variable;
using tensor::Tensor;

/// A weight and its name, dots between levels: "model.layers.0.mlp.up_proj.weight".
struct Parameter {
    std::string name;
    Variable variable;
};
using Parameters = std::vector<Parameter>;

/// Hears where a model's passes are. A model is cut into units, numbered as a forward pass meets them; the weights of a
/// unit are read only between `before` and `after`, and their gradients are whole after the backward pass of one
/// forward pass. The last unit is not left before its backward pass, for the loss still reads its weights.
class UnitObserver {
public:
    virtual ~UnitObserver() = default;
    virtual void before_forward(std::size_t unit) = 0;
    virtual void after_forward(std::size_t unit) = 0;
    virtual void before_backward(std::size_t unit) = 0;
    virtual void after_backward(std::size_t unit) = 0;
};

/// Something that owns parameters. `collect` appends them in a fixed order, their names behind `prefix`.
class Module {
public:
    virtual ~Module() = default;
    virtual void collect(const std::string& prefix, Parameters& out) const = 0;
    /// Makes constants of all parameters: from now on they have no gradient, and nothing is kept for one.
    virtual void freeze() = 0;

    Parameters parameters(const std::string& prefix = "") const {
        Parameters out;
        collect(prefix, out);
        return out;
    }
    /// Those that are not frozen.
    Parameters trainable(const std::string& prefix = "") const {
        Parameters out = parameters(prefix);
        std::erase_if(out, [](const Parameter& p) { return !p.variable.requires_grad(); });
        return out;
    }
};

}  // namespace uipe::nn
