// CE-U: cross entropy against the model's own distribution without the true token (Yang 2025, arXiv 2503.01224):
//   γ mean_f CE(softmax(z with z_y = -infinity), π), that distribution constant
// over the answer's tokens but the first. Default: γ = 1.
#include "unlearn/methods/methods.h"

namespace uipe::unlearn::methods {

Objective ceu() {
    return {.name = "ceu",
            .title = "CE-U",
            .formula = "mean_f CE(softmax(logits without y), cur), the first constant; not on a row's first token",
            .loss = [](const Terms& t) { return forgetting(t, t.forget_without_target()); }};
}

}  // namespace uipe::unlearn::methods
