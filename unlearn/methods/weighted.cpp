// Gradient difference whose ascent weighs each token by its present probability p, as a constant:
//   WGA      -γ mean_f[p^β NLL] + α mean_r NLL                   Wang et al. 2025, arXiv 2502.19301; β = 0 is GradDiff
//   SatImp   -γ mean_f[p^β1 (1 - p)^β2 NLL] + α mean_r NLL       Yang et al. 2025, arXiv 2505.11953
// Defaults: WGA β = γ = α = 1; SatImp β1 = 5, β2 = 1, γ = 1, α = 0.1.
#include "unlearn/methods/methods.h"

namespace uipe::unlearn::methods {

namespace {

Variable weighted(const Terms& t, double beta1, double beta2) {
    return with_retain_nll(t, forgetting(t, t.weighted_forget_nll(beta1, beta2), -1.0));
}

}  // namespace

Objective wga() {
    return {.name = "wga",
            .title = "WGA",
            .formula = "-mean_f[p^beta NLL] + mean_r NLL, p constant",
            .loss = [](const Terms& t) { return weighted(t, t.options().beta, 0.0); },
            .retain = true,
            .defaults = {.beta = 1.0}};
}

Objective satimp() {
    return {.name = "satimp",
            .title = "SatImp",
            .formula = "-mean_f[p^beta (1-p)^beta2 NLL] + mean_r NLL, p constant",
            .loss = [](const Terms& t) { return weighted(t, t.options().beta, t.options().beta2); },
            .retain = true,
            .defaults = {.beta = 5.0, .beta2 = 1.0, .retain_weight = 0.1}};
}

}  // namespace uipe::unlearn::methods
