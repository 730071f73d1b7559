// RMU: the output h of one layer is moved to a random vector on forget rows and held on retain rows (Li et al. 2024,
// arXiv 2403.03218, equations 2 and 3):
//   γ mean_f (h - c u)² + α mean_r (h - h_ref)², u uniform on [0, 1)^C, then of length 1
// over channels and over the positions that predict an answer's tokens. Only the layers up to that one are run; those
// above do not move. Defaults, of open-unlearning: layer 8 (its model.layers.7, which counts from 0; the last, where
// there are fewer), c = 2, γ = α = 1; all weights below are trained.
#include "unlearn/methods/methods.h"

namespace uipe::unlearn::methods {

Objective rmu() {
    return {.name = "rmu",
            .title = "RMU",
            .formula = "mean_f (h - coeff u)^2 + mean_r (h - h_ref)^2, h a layer's output, u random",
            .loss =
                [](const Terms& t) {
                    return ad::add(forgetting(t, t.forget_activations()),
                                   ad::scale(t.retain_activations(), t.options().retain_weight));
                },
            .retain = true,
            .reference_model = true,
            .layer = true};
}

}  // namespace uipe::unlearn::methods
