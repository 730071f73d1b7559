// token_logprob, token_kl and logits against a softmax over all of [T,V], in f64.
#include "tests/tensor/reference.h"

namespace uipe::tensor::test {
namespace {

class Heads : public EachType {};
UIPE_EACH_FLOAT_TYPE(Heads);

struct Size {
    std::int64_t T, C, V;
};
const std::vector<Size> head_sizes{{0, 4, 5}, {1, 1, 1}, {3, 7, 33}, {17, 33, 130}, {40, 16, 1000}};

/// The log-probabilities of one row. `spread`: no logit, and not their lse, is further off than C + V + 8 roundings of
/// a number of this size.
struct LogSoftmax {
    std::vector<double> logp;
    double lse = 0.0;
    double spread = 1.0;
    std::int32_t best = 0;
};

std::vector<LogSoftmax> log_softmax(const Tensor& hidden, const Tensor& w) {
    const auto h = values(hidden);
    const auto e = values(w);
    const auto C = static_cast<std::size_t>(hidden.dim(1));
    const auto V = static_cast<std::size_t>(w.dim(0));
    std::vector<LogSoftmax> rows(static_cast<std::size_t>(hidden.dim(0)));
    for (std::size_t t = 0; t < rows.size(); ++t) {
        LogSoftmax& row = rows[t];
        double total = 0.0;
        for (std::size_t v = 0; v < V; ++v) {
            Want x;
            for (std::size_t c = 0; c < C; ++c) x.add(h[t * C + c] * e[v * C + c]);
            row.logp.push_back(x.value);
            row.spread = std::max(row.spread, x.terms);
            total += std::exp(x.value);
        }
        row.best = static_cast<std::int32_t>(std::max_element(row.logp.begin(), row.logp.end()) - row.logp.begin());
        row.lse = std::log(total);
        row.spread += std::abs(row.lse);
        for (double& x : row.logp) x -= row.lse;
    }
    return rows;
}

double roundings(const Size& s) { return static_cast<double>(s.C + s.V + 20); }

/// The gradient of the logits passes through the operands' type on its way into the products: in bf16 a rounding of
/// that type, worth this many of the accumulator's.
double stored(DType dtype) { return unit(dtype) / unit(accumulator_of(dtype)); }

/// About a third of the rows carry no target.
Tensor some_targets(const Size& s) {
    auto target =
        indices(s.T, -static_cast<std::int32_t>(s.V + 1) / 2, static_cast<std::int32_t>(s.V)).to_vector<std::int32_t>();
    for (auto& t : target) t = std::max(t, -1);
    if (s.T > 1) target[1] = -1;
    return Tensor::from(target);
}

/// dhidden (+)= d W and dw += d^T hidden, from the gradient of the logits d[T,V].
struct HeadGradient {
    std::vector<Want> dhidden, dw;

    HeadGradient(const Size& s, const std::vector<Want>& d, const Tensor& hidden, const Tensor& w)
        : dhidden(static_cast<std::size_t>(s.T * s.C)), dw(static_cast<std::size_t>(s.V * s.C)) {
        const auto h = values(hidden);
        const auto e = values(w);
        const auto C = static_cast<std::size_t>(s.C);
        const auto V = static_cast<std::size_t>(s.V);
        for (std::size_t t = 0; t < static_cast<std::size_t>(s.T); ++t)
            for (std::size_t v = 0; v < V; ++v)
                for (std::size_t c = 0; c < C; ++c) {
                    dhidden[t * C + c].value += d[t * V + v].value * e[v * C + c];
                    dhidden[t * C + c].terms += d[t * V + v].terms * std::abs(e[v * C + c]);
                    dw[v * C + c].value += d[t * V + v].value * h[t * C + c];
                    dw[v * C + c].terms += d[t * V + v].terms * std::abs(h[t * C + c]);
                }
    }
};

TEST_P(Heads, TokenLogprobIsTheLogSoftmaxAtTheTargetAndZeroWithoutOne) {
    for (const Size& s : head_sizes) {
        SCOPED_TRACE(cat(s.T, "x", s.C, "x", s.V));
        const Tensor hidden = normal({s.T, s.C}, GetParam());
        const Tensor w = normal({s.V, s.C}, GetParam(), 0.5);
        const Tensor targets = some_targets(s);
        const DType acc = accumulator_of(GetParam());
        const Tensor logp = poisoned({s.T}, acc);
        const Tensor argmax = poisoned({s.T}, DType::i32);
        token_logprob(logp, hidden, w, targets, argmax);
        const auto rows = log_softmax(hidden, w);
        const auto target = targets.to_vector<std::int32_t>();
        const auto best = argmax.to_vector<std::int32_t>();
        std::vector<Want> want(rows.size());
        for (std::size_t t = 0; t < rows.size(); ++t) {
            const double tolerance = 2.0 * roundings(s) * unit(acc) * rows[t].spread;
            if (target[t] < 0) {
                EXPECT_EQ(best[t], -1);
                continue;
            }
            want[t] = {rows[t].logp[static_cast<std::size_t>(target[t])], 2.0 * rows[t].spread};
            ASSERT_TRUE(0 <= best[t] && best[t] < s.V);
            EXPECT_GE(rows[t].logp[static_cast<std::size_t>(best[t])],
                      rows[t].logp[static_cast<std::size_t>(rows[t].best)] - 2.0 * tolerance);
        }
        expect_near(logp, want, roundings(s));
        const Tensor alone = poisoned({s.T}, acc);
        token_logprob(alone, hidden, w, targets);
        EXPECT_TRUE(same_bits(logp, alone)) << "without argmax";
        token_logprob(alone, hidden, w, targets, {}, {}, poisoned({s.T, 2}, acc));
        EXPECT_TRUE(same_bits(logp, alone)) << "with moments";
        token_logprob(alone, hidden, w, targets, {}, poisoned({num_targets(targets), s.V}, GetParam()));
        expect_near(alone, want, roundings(s));
    }
}

/// Mean and variance of log p over the vocabulary, row by row. An error of log p moves p by that share of itself; the
/// variance is a difference of terms about the largest logit, which is no further from a log p than the spread.
std::vector<Want> want_moments(const std::vector<LogSoftmax>& rows, const std::vector<std::int32_t>& target) {
    std::vector<Want> want(2 * rows.size());
    for (std::size_t t = 0; t < rows.size(); ++t) {
        if (target[t] < 0) continue;
        Want& mean = want[2 * t];
        Want& variance = want[2 * t + 1];
        for (const double logp : rows[t].logp) mean.value += std::exp(logp) * logp;
        for (const double logp : rows[t].logp) {
            const double off = logp - mean.value, p = std::exp(logp), spread = 2.0 * rows[t].spread;
            variance.value += p * off * off;
            mean.terms += p * (std::abs(logp) + 1.0) * spread;
            variance.terms += p * (logp * logp + std::abs(logp)) * spread;
        }
    }
    return want;
}

TEST_P(Heads, MomentsAreThoseOfTheLogProbabilitiesOfTheWholeVocabulary) {
    for (const Size& s : head_sizes)
        for (const bool keeps : {false, true}) {
            SCOPED_TRACE(cat(s.T, "x", s.C, "x", s.V, " keeps ", keeps));
            const Tensor hidden = normal({s.T, s.C}, GetParam());
            const Tensor w = normal({s.V, s.C}, GetParam(), 0.5);
            const Tensor targets = some_targets(s);
            const DType acc = accumulator_of(GetParam());
            const Tensor moments = poisoned({s.T, 2}, acc);
            const Tensor dlogits = keeps ? poisoned({num_targets(targets), s.V}, GetParam()) : Tensor();
            token_logprob(poisoned({s.T}, acc), hidden, w, targets, {}, dlogits, moments);
            expect_near(moments, want_moments(log_softmax(hidden, w), targets.to_vector<std::int32_t>()), roundings(s));
        }
}

TEST_P(Heads, MomentsOfTwoTokensAreTheirFormula) {
    // p and 1-p: the mean of log p is minus the entropy, the variance p (1-p) (log p - log(1-p))². One has no variance.
    const Tensor moments = poisoned({2, 2}, accumulator_of(GetParam()));
    token_logprob(poisoned({2}, moments.dtype()), from_doubles({2.0, 0.0}, {2, 1}, GetParam()),
                  from_doubles({0.5, 0.0}, {2, 1}, GetParam()), Tensor::from(std::vector<std::int32_t>{0, 1}), {}, {},
                  moments);
    const double p = 1.0 / (1.0 + std::exp(-1.0)), q = 1.0 - p;
    const double half = std::log(0.5);
    expect_near(moments, {{p * std::log(p) + q * std::log(q), 2.0}, {p * q, 2.0}, {half, 2.0}, {0.0, 2.0}}, 8.0);
}

TEST_P(Heads, TokenLogprobBackwardIsTheFormulaWithOrWithoutEitherOutput) {
    for (const Size& s : head_sizes)
        for (const auto& [accumulate, kept] : {std::pair{false, false}, {true, false}, {false, true}, {true, true}}) {
            SCOPED_TRACE(cat(s.T, "x", s.C, "x", s.V, " accumulate ", accumulate, " kept ", kept));
            const DType acc = accumulator_of(GetParam());
            const Tensor hidden = normal({s.T, s.C}, GetParam());
            const Tensor w = normal({s.V, s.C}, GetParam(), 0.5);
            const Tensor targets = some_targets(s);
            const Tensor dlogp = normal({s.T}, acc);
            const Tensor dlogits = kept ? poisoned({num_targets(targets), s.V}, GetParam()) : Tensor();
            token_logprob(poisoned({s.T}, acc), hidden, w, targets, {}, dlogits);
            const auto rows = log_softmax(hidden, w);
            const auto g = values(dlogp);
            const auto target = targets.to_vector<std::int32_t>();
            std::vector<Want> d(static_cast<std::size_t>(s.T * s.V));
            for (std::size_t t = 0; t < rows.size(); ++t)
                for (std::size_t v = 0; target[t] >= 0 && v < rows[t].logp.size(); ++v) {
                    const double p = g[t] * std::exp(rows[t].logp[v]);
                    const double one = static_cast<std::size_t>(target[t]) == v ? g[t] : 0.0;
                    d[t * rows[t].logp.size() + v] = {one - p, std::abs(one) + 2.0 * std::abs(p) * rows[t].spread};
                }
            HeadGradient want(s, d, hidden, w);
            const Tensor dhidden = output({s.T, s.C}, GetParam(), accumulate);
            const Tensor dw = normal({s.V, s.C}, acc);
            if (accumulate) add_before(want.dhidden, dhidden);
            add_before(want.dw, dw);
            const Tensor dhidden_alone = dhidden.clone();
            const Tensor dw_alone = dw.clone();
            token_logprob_backward(dhidden, dw, dlogp, hidden, w, targets, accumulate, dlogits);
            expect_near(dhidden, want.dhidden, roundings(s) + stored(GetParam()), "dhidden");
            expect_near(dw, want.dw, roundings(s) + static_cast<double>(s.T) + stored(GetParam()), "dw");
            token_logprob_backward(dhidden_alone, {}, dlogp, hidden, w, targets, accumulate, dlogits);
            token_logprob_backward({}, dw_alone, dlogp, hidden, w, targets, accumulate, dlogits);
            EXPECT_TRUE(same_bits(dhidden, dhidden_alone));
            EXPECT_TRUE(same_bits(dw, dw_alone));
        }
}

TEST_P(Heads, ABatchOfManyChunksIsTheSumOfItsRows) {
    // So wide that 37 rows do not fit one chunk of logits; each row alone does.
    const Size s{37, 2, 270001};
    const DType acc = accumulator_of(GetParam());
    const Tensor hidden = normal({s.T, s.C}, GetParam());
    const Tensor w = normal({s.V, s.C}, GetParam());
    const Tensor targets = indices(s.T, 0, static_cast<std::int32_t>(s.V));
    const Tensor dlogp = normal({s.T}, acc);
    const Tensor logp = poisoned({s.T}, acc);
    token_logprob(logp, hidden, w, targets);
    const Tensor dhidden = poisoned({s.T, s.C}, GetParam());
    const Tensor dw = Tensor::zeros({s.V, s.C}, acc);
    token_logprob_backward(dhidden, dw, dlogp, hidden, w, targets, false);
    const Tensor dw_by_row = Tensor::zeros({s.V, s.C}, acc);
    for (std::int64_t t = 0; t < s.T; ++t) {
        const Tensor logp_row = poisoned({1}, acc);
        token_logprob(logp_row, hidden.rows(t, t + 1), w, targets.rows(t, t + 1));
        // One row or many are other shapes to the matrix product: another order of its two terms at most.
        EXPECT_NEAR(logp_row.item(), logp.rows(t, t + 1).item(), 64 * unit(acc) * std::abs(logp_row.item()));
        const Tensor dhidden_row = poisoned({1, s.C}, GetParam());
        token_logprob_backward(dhidden_row, dw_by_row, dlogp.rows(t, t + 1), hidden.rows(t, t + 1), w,
                               targets.rows(t, t + 1), false);
        const double weight = std::abs(dlogp.rows(t, t + 1).item());
        for (std::size_t c = 0; c < 2; ++c)  // sums of V terms that add up to |g| max|w| at most, about 2 * 5
            EXPECT_NEAR(values(dhidden_row)[c], values(dhidden.rows(t, t + 1))[c],
                        10.0 * weight * (2.0 * unit(GetParam()) + static_cast<double>(s.V) * unit(acc)));
    }
    const auto whole = values(dw);
    const auto by_row = values(dw_by_row);
    for (std::size_t i = 0; i < whole.size(); ++i)  // at most 37 terms, each below max|g| max|h|, about 16
        ASSERT_NEAR(whole[i], by_row[i], 37 * 16.0 * (37 * unit(acc) + 2.0 * unit(GetParam()) * 1e-2)) << i;
}

Tensor some_mask(std::int64_t T) {
    const Tensor mask = indices(T, 0, 3);  // any number but 0 keeps a row
    if (T > 1) fill(mask.rows(1, 2), 0);
    return mask;
}

TEST_P(Heads, TokenKlIsTheDivergenceOfTheReferenceFromTheModelOnTheRowsOfTheMask) {
    for (const Size& s : head_sizes)
        for (const bool masked : {false, true}) {
            SCOPED_TRACE(cat(s.T, "x", s.C, "x", s.V, " masked ", masked));
            const DType acc = accumulator_of(GetParam());
            const std::int64_t C_ref = s.C + 2;  // the reference may be another width
            const Tensor hidden = normal({s.T, s.C}, GetParam());
            const Tensor w = normal({s.V, s.C}, GetParam(), 0.5);
            const Tensor hidden_ref = normal({s.T, C_ref}, GetParam());
            const Tensor w_ref = normal({s.V, C_ref}, GetParam(), 0.5);
            const Tensor mask = masked ? some_mask(s.T) : Tensor();
            const Tensor kl = poisoned({s.T}, acc);
            token_kl(kl, hidden, w, hidden_ref, w_ref, mask);
            const auto rows = log_softmax(hidden, w);
            const auto refs = log_softmax(hidden_ref, w_ref);
            std::vector<Want> want_kl(rows.size());
            for (std::size_t t = 0; t < rows.size(); ++t) {
                if (masked && mask.to_vector<std::int32_t>()[t] == 0) continue;
                const double spread = 2.0 * (rows[t].spread + refs[t].spread);
                for (std::size_t v = 0; v < rows[t].logp.size(); ++v) {
                    const double p = std::exp(refs[t].logp[v]);
                    const double ratio = refs[t].logp[v] - rows[t].logp[v];
                    want_kl[t].value += p * ratio;
                    want_kl[t].terms += p * (std::abs(ratio) + 1.0) * spread;
                }
            }
            expect_near(kl, want_kl, roundings(s) + 2.0);
        }
}

TEST_P(Heads, TokenKlBackwardIsTheDifferenceOfTheDistributions) {
    for (const Size& s : head_sizes)
        for (const auto& [accumulate, kept] : {std::pair{false, false}, {true, false}, {false, true}, {true, true}}) {
            SCOPED_TRACE(cat(s.T, "x", s.C, "x", s.V, " accumulate ", accumulate, " kept ", kept));
            const DType acc = accumulator_of(GetParam());
            const Tensor hidden = normal({s.T, s.C}, GetParam());
            const Tensor w = normal({s.V, s.C}, GetParam(), 0.5);
            const Tensor hidden_ref = normal({s.T, s.C}, GetParam());
            const Tensor w_ref = normal({s.V, s.C}, GetParam(), 0.5);
            const Tensor mask = some_mask(s.T);
            const Tensor dkl = normal({s.T}, acc);
            const Tensor dlogits = kept ? poisoned({num_taken(mask, s.T), s.V}, GetParam()) : Tensor();
            token_kl(poisoned({s.T}, acc), hidden, w, hidden_ref, w_ref, mask, dlogits);
            const auto rows = log_softmax(hidden, w);
            const auto refs = log_softmax(hidden_ref, w_ref);
            const auto g = values(dkl);
            std::vector<Want> d(static_cast<std::size_t>(s.T * s.V));
            for (std::size_t t = 0; t < rows.size(); ++t)
                for (std::size_t v = 0; v < rows[t].logp.size(); ++v) {
                    if (mask.to_vector<std::int32_t>()[t] == 0) continue;
                    const double p = g[t] * std::exp(rows[t].logp[v]);
                    const double p_ref = g[t] * std::exp(refs[t].logp[v]);
                    d[t * rows[t].logp.size() + v] = {
                        p - p_ref, 2.0 * (std::abs(p) * rows[t].spread + std::abs(p_ref) * refs[t].spread)};
                }
            HeadGradient want(s, d, hidden, w);
            const Tensor dhidden = output({s.T, s.C}, GetParam(), accumulate);
            const Tensor dw = normal({s.V, s.C}, acc);
            if (accumulate) add_before(want.dhidden, dhidden);
            add_before(want.dw, dw);
            token_kl_backward(dhidden, dw, dkl, hidden, w, hidden_ref, w_ref, mask, accumulate, dlogits);
            expect_near(dhidden, want.dhidden, roundings(s) + stored(GetParam()), "dhidden");
            expect_near(dw, want.dw, roundings(s) + static_cast<double>(s.T) + stored(GetParam()), "dw");
        }
}

/// softmax with the target's logit lowered, from log-probabilities; their spread is those of the logits.
std::vector<double> soft_labels(const LogSoftmax& row, std::int32_t target, double lowered) {
    std::vector<double> q;
    double total = 0;
    for (std::size_t v = 0; v < row.logp.size(); ++v) {
        q.push_back(std::exp(row.logp[v] - (static_cast<std::int32_t>(v) == target ? lowered : 0.0)));
        total += q.back();
    }
    for (double& x : q) x /= total;
    return q;
}

TEST_P(Heads, TokenCrossEntropyIsThatOfSoftLabelsWithTheTargetLowered) {
    for (const Size& s : head_sizes)
        for (const double lowered : {0.0, 10.0, -2.0, std::numeric_limits<double>::infinity()}) {
            if (s.V == 1 && std::isinf(lowered)) continue;
            SCOPED_TRACE(cat(s.T, "x", s.C, "x", s.V, " lowered ", lowered));
            const DType acc = accumulator_of(GetParam());
            const std::int64_t C_ref = s.C + 2;  // the reference may be another width
            const Tensor hidden = normal({s.T, s.C}, GetParam());
            const Tensor w = normal({s.V, s.C}, GetParam(), 0.5);
            const Tensor hidden_ref = normal({s.T, C_ref}, GetParam());
            const Tensor w_ref = normal({s.V, C_ref}, GetParam(), 0.5);
            const Tensor targets = some_targets(s);
            const auto target = targets.to_vector<std::int32_t>();
            const Tensor ce = poisoned({s.T}, acc);
            token_cross_entropy(ce, hidden, w, hidden_ref, w_ref, targets, lowered);
            const auto rows = log_softmax(hidden, w);
            const auto refs = log_softmax(hidden_ref, w_ref);
            std::vector<Want> want(rows.size());
            for (std::size_t t = 0; t < rows.size(); ++t) {
                if (target[t] < 0) continue;
                const std::vector<double> q = soft_labels(refs[t], target[t], lowered);
                const double shift = std::isinf(lowered) ? 0.0 : std::abs(lowered);
                for (std::size_t v = 0; v < q.size(); ++v) {
                    want[t].value -= q[v] * rows[t].logp[v];
                    want[t].terms +=
                        q[v] * (std::abs(rows[t].logp[v]) + 1.0) * 2.0 * (rows[t].spread + refs[t].spread + shift);
                }
            }
            expect_near(ce, want, roundings(s) + 2.0);
            const Tensor again = poisoned({s.T}, acc);
            token_cross_entropy(again, hidden, w, hidden_ref, w_ref, targets, lowered,
                                poisoned({num_targets(targets), s.V}, GetParam()));
            EXPECT_TRUE(same_bits(again, ce)) << "with the gradient kept";
        }
}

TEST_P(Heads, TokenCrossEntropyBackwardIsTheDistributionLessTheLabels) {
    for (const Size& s : head_sizes)
        for (const auto& [accumulate, kept] : {std::pair{false, false}, {true, false}, {false, true}, {true, true}})
            for (const double lowered : {3.0, std::numeric_limits<double>::infinity()}) {
                if (s.V == 1 && std::isinf(lowered)) continue;
                SCOPED_TRACE(cat(s.T, "x", s.C, "x", s.V, " accumulate ", accumulate, " kept ", kept, " ", lowered));
                const DType acc = accumulator_of(GetParam());
                const Tensor hidden = normal({s.T, s.C}, GetParam());
                const Tensor w = normal({s.V, s.C}, GetParam(), 0.5);
                const Tensor hidden_ref = normal({s.T, s.C}, GetParam());
                const Tensor w_ref = normal({s.V, s.C}, GetParam(), 0.5);
                const Tensor targets = some_targets(s);
                const auto target = targets.to_vector<std::int32_t>();
                const Tensor dce = normal({s.T}, acc);
                const Tensor dlogits = kept ? poisoned({num_targets(targets), s.V}, GetParam()) : Tensor();
                token_cross_entropy(poisoned({s.T}, acc), hidden, w, hidden_ref, w_ref, targets, lowered, dlogits);
                const auto rows = log_softmax(hidden, w);
                const auto refs = log_softmax(hidden_ref, w_ref);
                const auto g = values(dce);
                std::vector<Want> d(static_cast<std::size_t>(s.T * s.V));
                for (std::size_t t = 0; t < rows.size(); ++t) {
                    if (target[t] < 0) continue;
                    const std::vector<double> q = soft_labels(refs[t], target[t], lowered);
                    for (std::size_t v = 0; v < q.size(); ++v) {
                        const double p = g[t] * std::exp(rows[t].logp[v]);
                        const double label = g[t] * q[v];
                        d[t * q.size() + v] = {
                            p - label, 2.0 * (std::abs(p) * rows[t].spread + std::abs(label) * (refs[t].spread + 3.0))};
                    }
                }
                HeadGradient want(s, d, hidden, w);
                const Tensor dhidden = output({s.T, s.C}, GetParam(), accumulate);
                const Tensor dw = normal({s.V, s.C}, acc);
                if (accumulate) add_before(want.dhidden, dhidden);
                add_before(want.dw, dw);
                token_cross_entropy_backward(dhidden, dw, dce, hidden, w, hidden_ref, w_ref, targets, lowered,
                                             accumulate, dlogits);
                expect_near(dhidden, want.dhidden, roundings(s) + stored(GetParam()), "dhidden");
                expect_near(dw, want.dw, roundings(s) + static_cast<double>(s.T) + stored(GetParam()), "dw");
            }
}

TEST_P(Heads, WithoutAReferenceSoftLabelsAreTheModelsOwn) {
    for (const Size& s : head_sizes)
        for (const bool kept : {false, true})
            for (const double lowered : {3.0, 1e-3, std::numeric_limits<double>::infinity()}) {
                if (s.V == 1 && std::isinf(lowered)) continue;
                SCOPED_TRACE(cat(s.T, "x", s.C, "x", s.V, " kept ", kept, " lowered ", lowered));
                const DType acc = accumulator_of(GetParam());
                const Tensor hidden = normal({s.T, s.C}, GetParam());
                const Tensor w = normal({s.V, s.C}, GetParam(), 0.5);
                const Tensor targets = some_targets(s);
                const auto target = targets.to_vector<std::int32_t>();
                const Tensor dce = normal({s.T}, acc);
                const Tensor dlogits = kept ? poisoned({num_targets(targets), s.V}, GetParam()) : Tensor();
                const Tensor ce = poisoned({s.T}, acc);
                token_cross_entropy(ce, hidden, w, {}, {}, targets, lowered, dlogits);
                const auto rows = log_softmax(hidden, w);
                const auto g = values(dce);
                std::vector<Want> want_ce(rows.size());
                std::vector<Want> d(static_cast<std::size_t>(s.T * s.V));
                for (std::size_t t = 0; t < rows.size(); ++t) {
                    if (target[t] < 0) continue;
                    const LogSoftmax& row = rows[t];
                    const auto y = static_cast<std::size_t>(target[t]);
                    const std::vector<double> q = soft_labels(row, target[t], lowered);
                    const double moved = g[t] * std::exp(row.logp[y]) * -std::expm1(-lowered);
                    double others = 0;
                    for (std::size_t v = 0; v < q.size(); ++v) {
                        if (v != y) others += q[v];
                        want_ce[t].value -= q[v] * row.logp[v];
                        want_ce[t].terms += q[v] * (std::abs(row.logp[v]) + 1.0) * 4.0 * (row.spread + 3.0);
                    }
                    // Each element is a product: no difference of nearly equal numbers is among its terms.
                    for (std::size_t v = 0; v < q.size(); ++v) {
                        const double value = moved * (v == y ? others : -q[v]);
                        d[t * q.size() + v] = {value, 4.0 * std::abs(value) * (row.spread + 3.0)};
                    }
                }
                expect_near(ce, want_ce, roundings(s) + 2.0);
                HeadGradient want(s, d, hidden, w);
                const Tensor dhidden = poisoned({s.T, s.C}, GetParam());
                const Tensor dw = normal({s.V, s.C}, acc);
                add_before(want.dw, dw);
                token_cross_entropy_backward(dhidden, dw, dce, hidden, w, {}, {}, targets, lowered, false, dlogits);
                expect_near(dhidden, want.dhidden, roundings(s) + stored(GetParam()), "dhidden");
                expect_near(dw, want.dw, roundings(s) + static_cast<double>(s.T) + stored(GetParam()), "dw");
            }
}

TEST_P(Heads, OwnLabelsOfASureTokenAreThoseOfTheOthers) {
    // The target is 200 above the others, whose exponentials beside it are nothing in f32.
    const Tensor hidden = Tensor::full({1, 1}, GetParam(), 1.0);
    const Tensor w = from_doubles({0, 200, 0, 0}, {4, 1}, GetParam());
    const DType acc = accumulator_of(GetParam());
    const Tensor ce = poisoned({1}, acc);
    const Tensor d = poisoned({1, 4}, GetParam());
    token_cross_entropy(ce, hidden, w, {}, {}, Tensor::from(std::vector<std::int32_t>{1}),
                        std::numeric_limits<double>::infinity(), d);
    EXPECT_NEAR(ce.item(), 200.0, 200.0 * 8 * unit(acc));
    const std::vector<double> want{-1.0 / 3, 1.0, -1.0 / 3, -1.0 / 3};
    for (std::size_t v = 0; v < 4; ++v) EXPECT_NEAR(values(d)[v], want[v], 8 * unit(acc) + unit(GetParam())) << v;
}

TEST_P(Heads, AModelDivergesFromItselfByNothing) {
    const Tensor hidden = normal({9, 16}, GetParam());
    const Tensor w = normal({50, 16}, GetParam());
    const DType acc = accumulator_of(GetParam());
    const Tensor kl = poisoned({9}, acc);
    token_kl(kl, hidden, w, hidden, w);
    for (const double v : values(kl)) EXPECT_EQ(v, 0.0);
}

TEST_P(Heads, LogitsAreTheProductInTheAccumulatorsType) {
    const Size s{3, 33, 70};
    const Tensor hidden = normal({s.T, s.C}, GetParam());
    const Tensor w = normal({s.V, s.C}, GetParam());
    const Tensor out = poisoned({s.T, s.V}, accumulator_of(GetParam()));
    logits(out, hidden, w);
    const auto h = values(hidden);
    const auto e = values(w);
    std::vector<Want> want(static_cast<std::size_t>(s.T * s.V));
    for (std::size_t t = 0; t < 3; ++t)
        for (std::size_t v = 0; v < 70; ++v)
            for (std::size_t c = 0; c < 33; ++c) want[t * 70 + v].add(h[t * 33 + c] * e[v * 33 + c]);
    expect_near(out, want, 34);
}

TEST_P(Heads, ArgmaxTakesTheFirstOfEqualLogits) {
    const Tensor hidden = Tensor::full({1, 2}, GetParam(), 1.0);
    const Tensor w = from_doubles({0, 0, 1, 1, 0, 0, 1, 1}, {4, 2}, GetParam());
    const DType acc = accumulator_of(GetParam());
    const Tensor argmax = poisoned({1}, DType::i32);
    token_logprob(poisoned({1}, acc), hidden, w, Tensor::from(std::vector<std::int32_t>{0}), argmax);
    EXPECT_EQ(argmax.item(), 1.0);
}

TEST_P(Heads, ArgmaxPassesOverNaNAndGivesZeroWhereNothingIsLeft) {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const double infinity = std::numeric_limits<double>::infinity();
    const Tensor x = from_doubles(
        {nan, -3, -2, -2, -infinity, -infinity, -infinity, -infinity, nan, nan, nan, nan, 1, nan, infinity, infinity},
        {4, 4}, GetParam());
    const Tensor y = poisoned({4}, DType::i32);
    argmax(y, x);
    EXPECT_EQ(y.to_vector<std::int32_t>(), (std::vector<std::int32_t>{2, 0, 0, 2}));
    EXPECT_THROW(argmax(y, x.rows(0, 3)), Error);
}

TEST_P(Heads, GiveTheSameBitsForAnyThreads) {
    if (!products_keep_bits(GetParam())) GTEST_SKIP() << "oneDNN may cut sums by threads here";
    const Size s{61, 48, 1003};
    const DType acc = accumulator_of(GetParam());
    const Tensor hidden = normal({s.T, s.C}, GetParam());
    const Tensor w = normal({s.V, s.C}, GetParam(), 0.3);
    const Tensor targets = some_targets(s);
    const Tensor d = normal({s.T}, acc);
    expect_same_bits_for_any_threads([&] {
        const Tensor logp = poisoned({s.T}, acc);
        const Tensor kl = poisoned({s.T}, acc);
        token_logprob(logp, hidden, w, targets);
        const Tensor dhidden = poisoned({s.T, s.C}, GetParam());
        const Tensor dw = Tensor::zeros({s.V, s.C}, acc);
        token_logprob_backward(dhidden, dw, d, hidden, w, targets, false);
        token_kl(kl, hidden, w, dhidden, w);
        token_kl_backward(dhidden, dw, d, hidden, w, dhidden.clone(), w, {}, true);
        const Tensor ce = poisoned({s.T}, acc);
        token_cross_entropy(ce, hidden, w, dhidden, w, targets, 2.0);
        const Tensor own = poisoned({s.T}, acc);
        const Tensor kept = poisoned({num_targets(targets), s.V}, GetParam());
        token_cross_entropy(own, hidden, w, {}, {}, targets, std::numeric_limits<double>::infinity(), kept);
        return std::vector<Tensor>{logp, kl, dhidden, dw, ce, own, kept};
    });
}

TEST(HeadsChecks, RefusesATargetOutsideTheVocabularyAndOperandsThatDisagree) {
    const Tensor hidden = Tensor::zeros({2, 4}, DType::f32);
    const Tensor w = Tensor::zeros({5, 4}, DType::f32);
    const Tensor y = Tensor::zeros({2}, DType::f32);
    EXPECT_THROW(token_logprob(y, hidden, w, Tensor::from(std::vector<std::int32_t>{0, 5})), Error);
    EXPECT_THROW(token_logprob(y, hidden, w, Tensor::from(std::vector<std::int32_t>{0, -2})), Error);
    EXPECT_THROW(token_logprob(y, hidden, w, Tensor::from(std::vector<std::int32_t>{0})), Error);
    EXPECT_THROW(token_logprob(y, hidden, w, Tensor::from(std::vector<std::int32_t>{0, 0}), {}, {}, y), Error);
    EXPECT_THROW(token_kl(y, hidden, w, hidden, Tensor::zeros({6, 4}, DType::f32)), Error);
    const double infinity = std::numeric_limits<double>::infinity();
    const Tensor targets = Tensor::from(std::vector<std::int32_t>{0, 0});
    const Tensor one = Tensor::zeros({1, 4}, DType::f32);
    EXPECT_THROW(token_cross_entropy(y, hidden, w, hidden, Tensor::zeros({6, 4}, DType::f32), targets, 1.0), Error);
    EXPECT_THROW(token_cross_entropy(y, hidden, one, hidden, one, targets, infinity), Error) << "nothing is left";
    EXPECT_THROW(token_cross_entropy(y, hidden, w, hidden, w, targets, -infinity), Error);
    EXPECT_THROW(token_cross_entropy(y, hidden, w, hidden, w, targets, std::nan("")), Error);
}

}  // namespace
}  // namespace uipe::tensor::test
