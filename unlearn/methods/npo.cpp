// Negative preference optimisation (Zhang et al. 2024, arXiv 2404.05868, equation 3), sums over a row's target tokens:
//   NPO      γ (2/β) mean_f[-log σ(-β log(π/π_ref))]
//   NPO-RT   NPO + α mean_r NLL                            section 3.3
// A row's gradient is GA's times 2 π^β / (π^β + π_ref^β): 1 at first, 0 when it is forgotten; β -> 0 is GA.
// Defaults: β = 0.1, γ = α = 1.
#include "unlearn/methods/methods.h"

namespace uipe::unlearn::methods {

namespace {

Variable loss(const Terms& t) { return forgetting(t, preference(t, t.forget_log_ratio())); }

}  // namespace

Objective npo() {
    return {.name = "npo",
            .title = "NPO",
            .formula = "(2/beta) mean_f[-log sigmoid(-beta log(cur/ref))]",
            .loss = loss,
            .reference_rows = true,
            .divides_by_beta = true};
}

Objective npo_rt() {
    return {.name = "npo_rt",
            .title = "NPO-RT",
            .formula = "NPO + mean_r NLL",
            .loss = [](const Terms& t) { return with_retain_nll(t, loss(t)); },
            .retain = true,
            .reference_rows = true,
            .divides_by_beta = true};
}

}  // namespace uipe::unlearn::methods
