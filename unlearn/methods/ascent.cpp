// Gradient ascent on the forget set, alone or beside a term that keeps the rest (means over target tokens):
//   GA        -γ mean_f NLL                               Jang et al. 2023, arXiv 2210.01504; TOFU
//   GradDiff  -γ mean_f NLL + α mean_r NLL                Liu et al. 2022, arXiv 2203.12817; TOFU
//   KL Min    -γ mean_f NLL + α mean_r KL(π_ref || π)     TOFU, arXiv 2401.06121, section 4.1
// KL Min averages over all positions of the retain rows, as there, or (--kl-on-answers) over their answers.
// Defaults: γ = α = 1.
#include "unlearn/methods/methods.h"

namespace uipe::unlearn::methods {

namespace {

Variable ascent(const Terms& t) { return forgetting(t, t.forget_nll(), -1.0); }

}  // namespace

Objective ga() { return {.name = "ga", .title = "GA", .formula = "-mean_f NLL", .loss = ascent}; }

Objective grad_diff() {
    return {.name = "grad_diff",
            .title = "GradDiff",
            .formula = "-mean_f NLL + mean_r NLL",
            .loss = [](const Terms& t) { return with_retain_nll(t, ascent(t)); },
            .retain = true};
}

Objective kl_min() {
    return {
        .name = "kl_min",
        .title = "KL Min",
        .formula = "-mean_f NLL + mean_r KL(ref||cur)",
        .loss = [](const Terms& t) { return ad::add(ascent(t), ad::scale(t.retain_kl(), t.options().retain_weight)); },
        .retain = true,
        .reference_model = true};
}

}  // namespace uipe::unlearn::methods
