// Fine-tuning: mean NLL of the data's target tokens.
#include "unlearn/methods/methods.h"

namespace uipe::unlearn::methods {

Objective nll() {
    return {.name = "nll",
            .title = "Fine-tuning",
            .formula = "mean NLL",
            .loss = [](const Terms& t) { return t.forget_nll(); },
            .unlearns = false};
}

}  // namespace uipe::unlearn::methods
