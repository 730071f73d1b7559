#include "unlearn/objective.h"

#include "tensor/ops.h"

namespace uipe::unlearn {

namespace ad = autograd;

MicroBatch packed(std::vector<llama::Sequence> forget, const std::vector<llama::Sequence>& retain) {
    MicroBatch batch;
    batch.forget = llama::pack(forget);
    if (!retain.empty()) batch.retain = llama::pack(retain);
    forget.insert(forget.end(), retain.begin(), retain.end());
    batch.both = llama::pack(forget);
    return batch;
}

const Variable& Terms::hidden() const {
    if (!hidden_.defined()) hidden_ = model_.hidden(batch_.both);
    return hidden_;
}

Variable Terms::forget_logp() const {
    return ad::token_logprob(ad::rows(hidden(), 0, batch_.forget.T), model_.head(), batch_.forget.targets);
}

Variable Terms::retain_hidden() const { return ad::rows(hidden(), batch_.forget.T, batch_.both.T); }

Variable Terms::retain_logp() const { return ad::token_logprob(retain_hidden(), model_.head(), batch_.retain.targets); }

Variable Terms::forget_nll() const { return ad::scale(ad::sum(forget_logp()), -1.0 / totals_.forget_targets); }

Variable Terms::retain_nll() const { return ad::scale(ad::sum(retain_logp()), -1.0 / totals_.retain_targets); }

Variable Terms::retain_kl() const {
    Tensor hidden_ref;
    {
        const ad::NoGrad guard;
        hidden_ref = reference_->hidden(batch_.retain).value();
    }
    Tensor mask;
    if (options_.kl_on_answers) {
        std::vector<std::int32_t> keep = batch_.retain.targets.to_vector<std::int32_t>();
        for (std::int32_t& target : keep) target = target >= 0 ? 1 : 0;
        mask = Tensor::from(keep);
    }
    const Variable kl = ad::token_kl(retain_hidden(), model_.head(), hidden_ref, reference_->head().value(), mask);
    return ad::scale(ad::sum(kl), 1.0 / (options_.kl_on_answers ? totals_.retain_targets : totals_.retain_positions));
}

Variable Terms::mean_over_forget_rows(const std::function<Variable(const Variable&)>& f) const {
    const Variable logp = ad::segment_sum(forget_logp(), batch_.forget.cu_seqlens);
    const Variable log_ratio = ad::add(logp, ad::scale(Variable(batch_.reference_logp), -1.0));
    return ad::scale(ad::sum(f(log_ratio)), 1.0 / totals_.forget_rows);
}

namespace {

/// Gradient ascent on the forget set (Jang et al. 2023; TOFU).
Variable ga(const Terms& t) { return ad::scale(t.forget_nll(), -t.options().forget_weight); }

/// Gradient difference (Liu et al. 2022; TOFU): ascent on forget, descent on retain.
Variable grad_diff(const Terms& t) { return ad::add(ga(t), ad::scale(t.retain_nll(), t.options().retain_weight)); }

/// KL minimisation (TOFU): ascent on forget, the initial model's distribution kept on retain.
Variable kl_min(const Terms& t) { return ad::add(ga(t), ad::scale(t.retain_kl(), t.options().retain_weight)); }

/// Negative preference optimisation (Zhang et al. 2024, equation 3): (2/β) mean[-log σ(-β log(π/π_ref))].
Variable npo(const Terms& t) {
    const double beta = t.options().beta;
    const Variable mean = t.mean_over_forget_rows(
        [beta](const Variable& log_ratio) { return ad::log_sigmoid(ad::scale(log_ratio, -beta)); });
    return ad::scale(mean, -2.0 / beta * t.options().forget_weight);
}

/// NPO with a retain term (the same paper, section 3.3).
Variable npo_rt(const Terms& t) { return ad::add(npo(t), ad::scale(t.retain_nll(), t.options().retain_weight)); }

Variable nll(const Terms& t) { return t.forget_nll(); }

}  // namespace

const std::vector<Objective>& objectives() {
    static const std::vector<Objective> all{
        {"nll", "Fine-tuning", "mean NLL", false, false, false, false, nll},
        {"ga", "GA", "-mean_f NLL", true, false, false, false, ga},
        {"grad_diff", "GradDiff", "-mean_f NLL + mean_r NLL", true, true, false, false, grad_diff},
        {"kl_min", "KL Min", "-mean_f NLL + mean_r KL(ref||cur)", true, true, true, false, kl_min},
        {"npo", "NPO", "(2/beta) mean_f[-log sigmoid(-beta log(cur/ref))]", true, false, false, true, npo},
        {"npo_rt", "NPO-RT", "NPO + mean_r NLL", true, true, false, true, npo_rt},
    };
    return all;
}

const Objective& unlearning_objective(const std::string& name) {
    std::string known;
    for (const Objective& o : objectives()) {
        if (!o.unlearns) continue;
        if (o.name == name) return o;
        known += (known.empty() ? "" : ", ") + o.name;
    }
    throw InputError(cat("unknown method '", name, "'; known: ", known));
}

const Objective& fine_tuning() { return objectives().front(); }

}  // namespace uipe::unlearn
