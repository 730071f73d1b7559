// The list of methods, and what several of them share. UIPE_METHODS names each function that makes one: that is its
// name on the command line. Fine-tuning comes first.
#pragma once

#include "autograd/ops.h"
#include "unlearn/objective.h"

#define UIPE_METHODS(METHOD) \
    METHOD(nll)              \
    METHOD(ga)               \
    METHOD(grad_diff)        \
    METHOD(kl_min)           \
    METHOD(npo)              \
    METHOD(npo_rt)           \
    METHOD(simnpo)           \
    METHOD(dpo)              \
    METHOD(dpo_rt)           \
    METHOD(idk)              \
    METHOD(wga)              \
    METHOD(satimp)           \
    METHOD(undial)           \
    METHOD(ceu)              \
    METHOD(rmu)

namespace uipe::unlearn::methods {

namespace ad = autograd;

#define UIPE_DECLARED(name) Objective name();
UIPE_METHODS(UIPE_DECLARED)
#undef UIPE_DECLARED

/// γ factor x.
inline Variable forgetting(const Terms& t, const Variable& x, double factor = 1.0) {
    return ad::scale(x, factor * t.options().forget_weight);
}
/// x + α mean_r NLL.
inline Variable with_retain_nll(const Terms& t, const Variable& x) {
    return ad::add(x, ad::scale(t.retain_nll(), t.options().retain_weight));
}
/// (2/β) mean_f[-log σ(-β x)] of x[B]: what prefers the row to be as unlikely as x is low.
inline Variable preference(const Terms& t, const Variable& x) {
    const double beta = t.options().beta;
    return ad::scale(t.mean_over_forget_rows(ad::log_sigmoid(ad::scale(x, -beta))), -2.0 / beta);
}

}  // namespace uipe::unlearn::methods
