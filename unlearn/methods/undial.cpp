// UNDIAL: self-distillation from the initial model with the answer's logits lowered (Dong et al. 2024, arXiv
// 2402.10052):
//   γ mean_f CE(softmax(z_ref - β onehot(y)), π)
// over the answer's tokens. Default: β = 10, γ = 1; the authors train at a learning rate of 1e-4.
#include "unlearn/methods/methods.h"

namespace uipe::unlearn::methods {

Objective undial() {
    return {.name = "undial",
            .title = "UNDIAL",
            .formula = "mean_f CE(softmax(logits_ref - beta onehot(y)), cur)",
            .loss = [](const Terms& t) { return forgetting(t, t.forget_distillation(t.options().beta)); },
            .reference_model = true,
            .defaults = {.beta = 10.0}};
}

}  // namespace uipe::unlearn::methods
