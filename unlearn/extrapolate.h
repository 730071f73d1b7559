// UIPE: after unlearning, go further along the same direction (arXiv 2503.04693, equation 5).
#pragma once

#include "llama/adapter.h"

namespace uipe::unlearn {

/// θ = θ_u + α (θ_u - θ_0), tensor by tensor, in the type of θ_u and rounded once: α = 0 gives θ_u and α = -1 gives
/// θ_0. The paper's factor of θ_u - θ_0 counted from θ_0 is 1 + α. Both must have the same tensors; InputError names
/// the first that differs.
llama::StateDict extrapolated(const llama::StateDict& unlearned, const llama::StateDict& initial, double alpha);

/// The same for adapters of one model, by what they add to its weights: exactly the product
/// (1 + α) s_u B_u A_u - α s_0 B_0 A_0, as an adapter of both ranks together, A over A_0 beside (1 + α) B_u and
/// -α s_0/s_u B_0; of the rank of θ_u alone without an initial one (or where α is 0 or -1, to the bit). Its numbers are
/// f32, each rounded once. InputError when the two have other targets.
llama::Adapter extrapolated(const llama::Adapter& unlearned, const std::optional<llama::Adapter>& initial,
                            double alpha);

/// sqrt of the sum of squares of θ_u - θ_0, and of θ_0: how far unlearning went.
struct UpdateNorm {
    double update = 0, initial = 0;
};
UpdateNorm update_norm(const llama::StateDict& unlearned, const llama::StateDict& initial);
/// The same where both are `weights` with an adapter, or θ_0 is the weights as they are.
UpdateNorm update_norm(const llama::StateDict& weights, const llama::Adapter& unlearned,
                       const std::optional<llama::Adapter>& initial);

}  // namespace uipe::unlearn
