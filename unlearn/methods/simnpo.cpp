// SimNPO: NPO without a reference, by the mean over a row's target tokens (Fan et al. 2024, arXiv 2410.07163, with the
// margin 0 of its experiments):
//   γ (2/β) mean_f[-log σ(-β log π(y|x) / |y|)] + α mean_r NLL
// Defaults: β = 4.5, γ = 0.125, α = 1 (the paper's of forget10; of forget05 β = 2.5, γ = 0.1375).
#include "unlearn/methods/methods.h"

namespace uipe::unlearn::methods {

Objective simnpo() {
    return {
        .name = "simnpo",
        .title = "SimNPO",
        .formula = "(2/beta) mean_f[-log sigmoid(-beta log(cur)/|y|)] + mean_r NLL",
        .loss = [](const Terms& t) { return with_retain_nll(t, forgetting(t, preference(t, t.forget_mean_logp()))); },
        .retain = true,
        .divides_by_beta = true,
        .defaults = {.beta = 4.5, .forget_weight = 0.125}};
}

}  // namespace uipe::unlearn::methods
