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

/// Something that owns parameters. `collect` appends them in a fixed order, their names behind `prefix`.
class Module {
public:
    virtual ~Module() = default;
    virtual void collect(const std::string& prefix, Parameters& out) const = 0;

    Parameters parameters(const std::string& prefix = "") const {
        Parameters out;
        collect(prefix, out);
        return out;
    }
};

}  // namespace uipe::nn
