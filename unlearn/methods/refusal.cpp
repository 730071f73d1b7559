// Methods that teach a refusal in the place of the answer: each forget row is paired with one of the refusals, another
// one each epoch.
//   DPO      γ (2/β) mean_f[-log σ(β (log(π/π_ref)(refusal) - log(π/π_ref)(answer)))]
//            Rafailov et al. 2023, arXiv 2305.18290; TOFU, arXiv 2401.06121; with the 2/β of NPO's authors
//   DPO-RT   DPO + α mean_r NLL
//   IDK      mean NLL of the refusals and the retain rows together    TOFU; γ and α weigh the two
// Defaults: β = 0.1, γ = α = 1.
#include "unlearn/methods/methods.h"

namespace uipe::unlearn::methods {

namespace {

Variable dpo_loss(const Terms& t) {
    const Variable refusal = ad::scale(t.refusal_log_ratio(), -1.0);
    return forgetting(t, preference(t, ad::add(t.forget_log_ratio(), refusal)));
}

}  // namespace

Objective dpo() {
    return {.name = "dpo",
            .title = "DPO",
            .formula = "(2/beta) mean_f[-log sigmoid(beta (log(cur/ref)(refusal) - log(cur/ref)(answer)))]",
            .loss = dpo_loss,
            .refusals = true,
            .reference_rows = true,
            .divides_by_beta = true};
}

Objective dpo_rt() {
    return {.name = "dpo_rt",
            .title = "DPO-RT",
            .formula = "DPO + mean_r NLL",
            .loss = [](const Terms& t) { return with_retain_nll(t, dpo_loss(t)); },
            .retain = true,
            .refusals = true,
            .reference_rows = true,
            .divides_by_beta = true};
}

Objective idk() {
    return {.name = "idk",
            .title = "IDK",
            .formula = "mean NLL of refusals and retain rows",
            .loss =
                [](const Terms& t) {
                    return t.refusal_and_retain_nll(t.options().forget_weight, t.options().retain_weight);
                },
            .forget = false,
            .retain = true,
            .refusals = true};
}

}  // namespace uipe::unlearn::methods
