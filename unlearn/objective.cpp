#include "unlearn/objective.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tensor/ops.h"
#include "tensor/random.h"
#include "unlearn/methods/methods.h"

namespace uipe::unlearn {

namespace ad = autograd;

std::int64_t rmu_layer(const ObjectiveOptions& options, const llama::Config& config) {
    if (options.rmu_layer == 0) return std::min<std::int64_t>(8, config.num_layers);
    require_input(options.rmu_layer > 0 && options.rmu_layer <= config.num_layers, "--rmu-layer ", options.rmu_layer,
                  ": the model has layers 1 to ", config.num_layers);
    return options.rmu_layer;
}

MicroBatch packed(const std::vector<llama::Sequence>& forget, const std::vector<llama::Sequence>& retain,
                  const std::vector<llama::Sequence>& refusals) {
    MicroBatch batch;
    std::vector<llama::Sequence> all;
    const auto add = [&all](llama::Batch& part, const std::vector<llama::Sequence>& rows) {
        if (!rows.empty()) part = llama::pack(rows);
        all.insert(all.end(), rows.begin(), rows.end());
    };
    add(batch.forget, forget);
    add(batch.refusal, refusals);
    add(batch.retain, retain);
    batch.all = llama::pack(all);
    return batch;
}

const Variable& Terms::hidden() const {
    if (!hidden_.defined()) hidden_ = model_.hidden(batch_.all);
    return hidden_;
}

Variable Terms::forget_hidden() const { return ad::rows(hidden(), 0, batch_.forget.T); }
Variable Terms::retain_hidden() const { return ad::rows(hidden(), retain_begin(), batch_.all.T); }

Variable Terms::forget_logp() const { return ad::token_logprob(forget_hidden(), model_.head(), batch_.forget.targets); }
Variable Terms::refusal_logp() const {
    return ad::token_logprob(ad::rows(hidden(), batch_.forget.T, retain_begin()), model_.head(),
                             batch_.refusal.targets);
}
Variable Terms::retain_logp() const { return ad::token_logprob(retain_hidden(), model_.head(), batch_.retain.targets); }

Tensor Terms::constant(const std::vector<double>& values) const {
    return Tensor::from(values).to(tensor::accumulator_of(model_.dtype())).to(model_.device());
}

Variable Terms::forget_nll() const { return ad::scale(ad::sum(forget_logp()), -1.0 / totals_.forget_targets); }

Variable Terms::weighted_forget_nll(double a, double b) const {
    const Variable logp = forget_logp();
    const Tensor weights = Tensor::empty(logp.value().shape(), logp.value().dtype(), logp.value().device());
    tensor::probability_weights(weights, logp.value(), a, b);
    return ad::scale(ad::sum(ad::mul(logp, Variable(weights))), -1.0 / totals_.forget_targets);
}

Variable Terms::retain_nll() const { return ad::scale(ad::sum(retain_logp()), -1.0 / totals_.retain_targets); }

Variable Terms::refusal_and_retain_nll(double refusal_weight, double retain_weight) const {
    const double share = -1.0 / (totals_.refusal_targets + totals_.retain_targets);
    return ad::add(ad::scale(ad::sum(refusal_logp()), share * refusal_weight),
                   ad::scale(ad::sum(retain_logp()), share * retain_weight));
}

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

Variable Terms::forget_distillation(double shift) const {
    Tensor hidden_ref;
    {
        const ad::NoGrad guard;
        hidden_ref = reference_->hidden(batch_.forget).value();
    }
    const Variable ce = ad::token_cross_entropy(forget_hidden(), model_.head(), hidden_ref, reference_->head().value(),
                                                batch_.forget.targets, shift);
    return ad::scale(ad::sum(ce), 1.0 / totals_.forget_targets);
}

namespace {

/// The targets but the first of each sequence.
Tensor without_first(const llama::Batch& batch) {
    std::vector<std::int32_t> targets = batch.targets.to_vector<std::int32_t>();
    const std::int32_t* cu = batch.cu_seqlens.data<std::int32_t>();
    for (std::int64_t b = 0; b < batch.B; ++b) {
        const auto end = targets.begin() + cu[b + 1];
        const auto first = std::find_if(targets.begin() + cu[b], end, [](std::int32_t t) { return t >= 0; });
        if (first != end) *first = -1;
    }
    return Tensor::from(targets);
}

}  // namespace

Variable Terms::forget_without_target() const {
    const Variable ce = ad::token_cross_entropy(forget_hidden(), model_.head(), {}, {}, without_first(batch_.forget),
                                                std::numeric_limits<double>::infinity());
    return ad::scale(ad::sum(ce), 1.0 / std::max(1.0, totals_.forget_targets - totals_.forget_rows));
}

namespace {

/// Sums of logp[T] over sequences, less those of the reference.
Variable log_ratio(const Variable& logp, const llama::Batch& batch, const Tensor& reference) {
    return ad::add(ad::segment_sum(logp, batch.cu_seqlens), ad::scale(Variable(reference), -1.0));
}

}  // namespace

Variable Terms::forget_log_ratio() const { return log_ratio(forget_logp(), batch_.forget, batch_.forget_reference); }
Variable Terms::refusal_log_ratio() const {
    return log_ratio(refusal_logp(), batch_.refusal, batch_.refusal_reference);
}

Variable Terms::forget_mean_logp() const {
    const std::int32_t* target = batch_.forget.targets.data<std::int32_t>();
    const std::int32_t* cu = batch_.forget.cu_seqlens.data<std::int32_t>();
    std::vector<double> share;
    for (std::int64_t b = 0; b < batch_.forget.B; ++b)
        share.push_back(1.0 / static_cast<double>(std::count_if(target + cu[b], target + cu[b + 1],
                                                                [](std::int32_t t) { return t >= 0; })));
    return ad::mul(ad::segment_sum(forget_logp(), batch_.forget.cu_seqlens), Variable(constant(share)));
}

Variable Terms::mean_over_forget_rows(const Variable& x) const {
    return ad::scale(ad::sum(x), 1.0 / totals_.forget_rows);
}

const Variable& Terms::activations() const {
    if (!activations_.defined()) activations_ = model_.hidden_after(batch_.all, rmu_layer(options_, model_.config()));
    return activations_;
}

Variable Terms::distance_on_targets(const Variable& x, const Tensor& y, const llama::Batch& batch) const {
    std::vector<double> mask;
    for (const std::int32_t target : batch.targets.to_vector<std::int32_t>()) mask.push_back(target >= 0 ? 1.0 : 0.0);
    return ad::sum(ad::mul(ad::squared_distance(x, y), Variable(constant(mask))));
}

namespace {

/// [1,C]: uniform numbers of [0, 1), made as long as `norm`.
Tensor random_direction(std::int64_t C, double norm, std::uint64_t seed) {
    constexpr std::uint64_t stream = std::uint64_t{6} << 40;  // apart from those of dataset.cpp and trainer.cpp
    tensor::Random random(seed, stream);
    std::vector<double> v(static_cast<std::size_t>(C));
    double squares = 0;
    for (double& x : v) {
        x = random.uniform();
        squares += x * x;
    }
    for (double& x : v) x *= norm / std::sqrt(squares);
    return Tensor::from(v, {1, C});
}

}  // namespace

Variable Terms::forget_activations() const {
    const std::int64_t C = model_.config().hidden_size;
    const Tensor v = random_direction(C, options_.rmu_coeff, options_.seed).to(model_.dtype()).to(model_.device());
    const Variable sum = distance_on_targets(ad::rows(activations(), 0, batch_.forget.T), v, batch_.forget);
    return ad::scale(sum, 1.0 / (totals_.forget_targets * static_cast<double>(C)));
}

Variable Terms::retain_activations() const {
    Tensor h_ref;
    {
        const ad::NoGrad guard;
        h_ref = reference_->hidden_after(batch_.retain, rmu_layer(options_, model_.config())).value();
    }
    const Variable sum =
        distance_on_targets(ad::rows(activations(), retain_begin(), batch_.all.T), h_ref, batch_.retain);
    return ad::scale(sum, 1.0 / (totals_.retain_targets * static_cast<double>(model_.config().hidden_size)));
}

const std::vector<Objective>& objectives() {
    static const std::vector<Objective> all{
#define UIPE_MADE(name) methods::name(),
        UIPE_METHODS(UIPE_MADE)
#undef UIPE_MADE
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
