// UIPE: after unlearning, go further along the same direction (arXiv 2503.04693, equation 5).
#pragma once

#include "llama/safetensors.h"

namespace uipe::unlearn {

/// θ = θ_u + α (θ_u - θ_0), tensor by tensor, in the type of θ_u and rounded once: α = 0 gives θ_u and α = -1 gives
/// θ_0. The paper's factor of θ_u - θ_0 counted from θ_0 is 1 + α. Both must have the same tensors; InputError names
/// the first that differs.
llama::StateDict extrapolated(const llama::StateDict& unlearned, const llama::StateDict& initial, double alpha);

/// sqrt of the sum of squares of θ_u - θ_0, and of θ_0: how far unlearning went.
struct UpdateNorm {
    double update = 0, initial = 0;
};
UpdateNorm update_norm(const llama::StateDict& unlearned, const llama::StateDict& initial);

}  // namespace uipe::unlearn
