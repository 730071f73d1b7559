// The two heads and argmax on the device against the CPU in f64, on the same inputs.
//
// Bounds. In f32 a logit is off by C + 1 roundings of 2^-24 of the absolute values of its terms, and the logarithm of
// the sum by some more: together below 1e-5 of `scale`, the largest sum of absolute terms (C is at most 33 here). A
// probability then is off by that share of itself, and so is all that is made of probabilities. bf16 changes only what
// is stored in it: the gradient by the logits, a row of hidden times its factor, and the result are each rounded once.
#include "tests/cuda/cuda_test.h"

namespace uipe::tensor::test {
namespace {

class CudaHeads : public CudaFloats {};
UIPE_CUDA_FLOATS(CudaHeads);

struct Size {
    std::int64_t T, C, V;
};
const std::vector<Size> head_sizes{{0, 4, 5}, {1, 1, 1}, {1, 8, 7}, {5, 7, 33}, {6, 33, 1000}, {40, 16, 128}};

double scale_of(const Tensor& hidden, const Tensor& w) {
    double most = 1.0 + std::log(static_cast<double>(w.dim(0)));
    for (const double v : values(product(absolute(hidden), false, absolute(w), true))) most = std::max(most, v);
    return most;
}

/// got is within `share` of terms of want, and one rounding to its type.
void expect_within(const Tensor& on_device, const Tensor& want, const Tensor& terms, double share, const char* what) {
    const Tensor got = on_device.to(Device{});
    ASSERT_EQ(got.shape(), want.shape()) << what;
    const auto g = values(got);
    const auto x = values(want);
    const auto size = values(terms);
    for (std::size_t i = 0; i < g.size(); ++i) {
        const double off = share * size[i];
        const double tolerance = off + unit(got.dtype()) * (std::abs(x[i]) + off) + std::numeric_limits<float>::min();
        ASSERT_LE(std::abs(g[i] - x[i]), tolerance)  // false for NaN
            << what << " element " << i << " of " << to_string(want.shape()) << ": got " << g[i] << ", want " << x[i];
    }
}

/// softmax(hidden w^T) [T,V] in f64.
Tensor probabilities(const Tensor& hidden, const Tensor& w) {
    Tensor p = product(wide(hidden), false, wide(w), true);
    const std::int64_t V = p.dim(1);
    for (std::int64_t t = 0; t < p.dim(0); ++t) {
        double* row = p.data<double>() + t * V;
        const double most = *std::max_element(row, row + V);
        double sum = 0.0;
        for (std::int64_t v = 0; v < V; ++v) sum += row[v] = std::exp(row[v] - most);
        for (std::int64_t v = 0; v < V; ++v) row[v] /= sum;
    }
    return p;
}

/// Targets of all rows, of about half of them, or of none.
enum class Masked : std::uint8_t { none, some, all };

Tensor some_targets(const Size& s, Masked masked) {
    auto target = indices(s.T, 0, static_cast<std::int32_t>(s.V)).to_vector<std::int32_t>();
    const auto drop = indices(s.T, 0, 2).to_vector<std::int32_t>();
    for (std::size_t t = 0; t < target.size(); ++t)
        if (masked == Masked::all || (masked == Masked::some && (t == 1 || drop[t] == 1))) target[t] = -1;
    return Tensor::from(target, {s.T});
}

Tensor some_mask(const Size& s, Masked masked) {
    if (masked == Masked::none) return {};
    auto mask = some_targets(s, masked).to_vector<std::int32_t>();
    for (auto& m : mask) m = m < 0 ? 0 : 1 + m;  // any number but 0 keeps a row
    return Tensor::from(mask, {s.T});
}

/// The gradient's terms: |scale| |d| |w|, summed over V, and |d| |scale h|, summed over rows, for the rows that count.
/// `d` bounds the gradient by the logits [T,V]; rows with no target are 0 in it.
struct HeadTerms {
    Tensor dhidden, dw;

    HeadTerms(const Tensor& d, const Tensor& dy, const Tensor& hidden, const Tensor& w) {
        const auto g = values(dy);
        for (std::int64_t t = 0; t < d.dim(0); ++t)
            for (std::int64_t v = 0; v < d.dim(1); ++v)
                d.data<double>()[t * d.dim(1) + v] *= std::abs(g[static_cast<std::size_t>(t)]);
        dhidden = product(d, false, absolute(w), false);
        dw = product(d, true, absolute(hidden), false);
    }
};

/// Adds the absolute values of what an output held before.
void add_terms(const Tensor& terms, const Tensor& before) { axpby(terms, 1.0, absolute(before), 1.0); }

/// Probabilities where `index`, targets or a mask, keeps a row, else 0.
template <class Keep>
Tensor kept_rows(const Tensor& p, const Keep& keep) {
    for (std::int64_t t = 0; t < p.dim(0); ++t)
        if (!keep(t)) fill(p.rows(t, t + 1), 0.0);
    return p;
}

TEST_P(CudaHeads, TokenLogprob) {
    for (const Size& s : head_sizes)
        for (const Masked masked : {Masked::none, Masked::some, Masked::all}) {
            SCOPED_TRACE(cat(s.T, "x", s.C, "x", s.V, " masked ", static_cast<int>(masked)));
            const Tensor hidden = normal({s.T, s.C}, GetParam());
            const Tensor w = normal({s.V, s.C}, GetParam(), 0.5);
            const Tensor targets = some_targets(s, masked);
            const std::int64_t n = num_targets(targets);
            const Tensor logp = on(poisoned({s.T}, DType::f32));
            const Tensor argmax = poisoned({s.T}, DType::i32);
            const Tensor d = on(poisoned({n, s.V}, GetParam()));
            const Tensor want = poisoned({s.T}, DType::f64);
            const Tensor want_d = poisoned({n, s.V}, DType::f64);
            token_logprob(logp, on(hidden), on(w), targets, argmax, d);
            token_logprob(want, wide(hidden), wide(w), targets, {}, want_d);
            const double share = 1e-5 * scale_of(hidden, w);
            expect_within(logp, want, Tensor::full({s.T}, DType::f64, 1.0), share, "logp");
            expect_within(d, want_d, absolute(want_d), share, "dlogits");
            const auto best = argmax.to_vector<std::int32_t>();
            const auto logits = values(product(wide(hidden), false, wide(w), true));
            for (std::int64_t t = 0; t < s.T; ++t) {
                const auto token = best[static_cast<std::size_t>(t)];
                if (targets.data<std::int32_t>()[t] < 0) {
                    ASSERT_EQ(token, -1);
                    continue;
                }
                ASSERT_TRUE(0 <= token && token < s.V);
                const double* row = logits.data() + t * s.V;
                ASSERT_GE(row[token], *std::max_element(row, row + s.V) - 2.0 * share);
            }
            const Tensor alone = on(poisoned({s.T}, DType::f32));
            token_logprob(alone, on(hidden), on(w), targets);
            EXPECT_TRUE(same_bits(alone.to(Device{}), logp.to(Device{}))) << "without argmax and dlogits";
        }
}

TEST_P(CudaHeads, Moments) {
    for (const Size& s : head_sizes)
        for (const Masked masked : {Masked::none, Masked::some, Masked::all})
            for (const bool keep : {false, true}) {
                SCOPED_TRACE(cat(s.T, "x", s.C, "x", s.V, " masked ", static_cast<int>(masked), " keep ", keep));
                const Tensor hidden = normal({s.T, s.C}, GetParam());
                const Tensor w = normal({s.V, s.C}, GetParam(), 0.5);
                const Tensor targets = some_targets(s, masked);
                const Tensor kept = keep ? on(poisoned({num_targets(targets), s.V}, GetParam())) : Tensor();
                const Tensor logp = on(poisoned({s.T}, DType::f32));
                const Tensor moments = on(poisoned({s.T, 2}, DType::f32));
                const Tensor want = poisoned({s.T, 2}, DType::f64);
                token_logprob(logp, on(hidden), on(w), targets, {}, kept, moments);
                token_logprob(poisoned({s.T}, DType::f64), wide(hidden), wide(w), targets, {}, {}, want);
                // Each log p is off by its share, each p by that share of itself; a log p is below twice the scale.
                const double scale = 2.0 * scale_of(hidden, w);
                const Tensor terms = Tensor::full({s.T, 2}, DType::f64, scale * (1.0 + scale));
                for (std::int64_t t = 0; t < s.T; ++t) terms.data<double>()[2 * t] = 1.0 + scale;
                expect_within(moments, want, terms, 1e-5 * scale, "moments");
                const Tensor alone = on(poisoned({s.T}, DType::f32));
                token_logprob(alone, on(hidden), on(w), targets, {}, kept);
                EXPECT_TRUE(same_bits(alone.to(Device{}), logp.to(Device{}))) << "without moments";
            }
}

TEST_P(CudaHeads, TokenLogprobBackward) {
    for (const Size& s : head_sizes)
        for (int flags = 0; flags < 8; ++flags) {
            const bool accumulate = (flags & 1) != 0;
            const bool keep = (flags & 2) != 0;
            const Masked masked = (flags & 4) != 0 ? Masked::some : Masked::none;
            SCOPED_TRACE(cat(s.T, "x", s.C, "x", s.V, " flags ", flags));
            const Tensor hidden = normal({s.T, s.C}, GetParam());
            const Tensor w = normal({s.V, s.C}, GetParam(), 0.5);
            const Tensor targets = some_targets(s, masked);
            const Tensor dlogp = normal({s.T}, DType::f32);
            const Tensor kept = keep ? on(poisoned({num_targets(targets), s.V}, GetParam())) : Tensor();
            if (keep) token_logprob(on(poisoned({s.T}, DType::f32)), on(hidden), on(w), targets, {}, kept);
            const Tensor dhidden = output({s.T, s.C}, GetParam(), accumulate);
            const Tensor dw = normal({s.V, s.C}, DType::f32);
            const Tensor got_dhidden = on(dhidden).clone();
            const Tensor got_dw = on(dw).clone();
            token_logprob_backward(got_dhidden, got_dw, on(dlogp), on(hidden), on(w), targets, accumulate, kept);
            const Tensor want_dhidden = wide(dhidden).clone();
            const Tensor want_dw = wide(dw).clone();
            token_logprob_backward(want_dhidden, want_dw, wide(dlogp), wide(hidden), wide(w), targets, accumulate);
            const std::int32_t* target = targets.data<std::int32_t>();
            const Tensor d = kept_rows(probabilities(hidden, w), [&](std::int64_t t) { return target[t] >= 0; });
            for (std::int64_t t = 0; t < s.T; ++t)  // |onehot - p|
                if (target[t] >= 0) d.data<double>()[t * s.V + target[t]] = 1.0 - d.data<double>()[t * s.V + target[t]];
            const HeadTerms terms(d, dlogp, hidden, w);
            if (accumulate) add_terms(terms.dhidden, dhidden);
            add_terms(terms.dw, dw);
            const double share = 1e-5 * scale_of(hidden, w);
            const double stored = GetParam() == DType::bf16 ? unit(DType::bf16) : 0.0;
            expect_within(got_dhidden, want_dhidden, terms.dhidden, share + stored, "dhidden");
            expect_within(got_dw, want_dw, terms.dw, share + 2.0 * stored, "dw");
            const Tensor dhidden_alone = on(dhidden).clone();
            const Tensor dw_alone = on(dw).clone();
            token_logprob_backward(dhidden_alone, {}, on(dlogp), on(hidden), on(w), targets, accumulate, kept);
            token_logprob_backward({}, dw_alone, on(dlogp), on(hidden), on(w), targets, accumulate, kept);
            EXPECT_TRUE(same_bits(dhidden_alone.to(Device{}), got_dhidden.to(Device{})));
            EXPECT_TRUE(same_bits(dw_alone.to(Device{}), got_dw.to(Device{})));
        }
}

TEST_P(CudaHeads, TokenKlAndItsGradient) {
    for (const Size& s : head_sizes)
        for (int flags = 0; flags < 8; ++flags) {
            const bool accumulate = (flags & 1) != 0;
            const bool keep = (flags & 2) != 0;
            const Masked masked = (flags & 4) != 0 ? Masked::some : Masked::none;
            SCOPED_TRACE(cat(s.T, "x", s.C, "x", s.V, " flags ", flags));
            const Tensor hidden = normal({s.T, s.C}, GetParam());
            const Tensor w = normal({s.V, s.C}, GetParam(), 0.5);
            const Tensor hidden_ref = normal({s.T, s.C + 2}, GetParam());  // the reference may be another width
            const Tensor w_ref = normal({s.V, s.C + 2}, GetParam(), 0.5);
            const Tensor mask = some_mask(s, masked);
            const Tensor dkl = normal({s.T}, DType::f32);
            const Tensor kept = keep ? on(poisoned({num_taken(mask, s.T), s.V}, GetParam())) : Tensor();
            const Tensor kl = on(poisoned({s.T}, DType::f32));
            const Tensor want_kl = poisoned({s.T}, DType::f64);
            token_kl(kl, on(hidden), on(w), on(hidden_ref), on(w_ref), mask, kept);
            token_kl(want_kl, wide(hidden), wide(w), wide(hidden_ref), wide(w_ref), mask);
            // A sum of p_ref (log p_ref - log p) with each logarithm off by its share, and each p_ref by its own.
            const double scale = scale_of(hidden, w) + scale_of(hidden_ref, w_ref);
            const double share = 1e-5 * scale;
            expect_within(kl, want_kl, Tensor::full({s.T}, DType::f64, 1.0 + 2.0 * scale), share, "kl");
            const Tensor dhidden = output({s.T, s.C}, GetParam(), accumulate);
            const Tensor dw = normal({s.V, s.C}, DType::f32);
            const Tensor got_dhidden = on(dhidden).clone();
            const Tensor got_dw = on(dw).clone();
            const Tensor want_dhidden = wide(dhidden).clone();
            const Tensor want_dw = wide(dw).clone();
            token_kl_backward(got_dhidden, got_dw, on(dkl), on(hidden), on(w), on(hidden_ref), on(w_ref), mask,
                              accumulate, kept);
            token_kl_backward(want_dhidden, want_dw, wide(dkl), wide(hidden), wide(w), wide(hidden_ref), wide(w_ref),
                              mask, accumulate);
            const Tensor d = probabilities(hidden, w);
            axpby(d, 1.0, probabilities(hidden_ref, w_ref), 1.0);
            (void)kept_rows(d, [&](std::int64_t t) { return !mask.defined() || mask.data<std::int32_t>()[t] != 0; });
            const HeadTerms terms(d, dkl, hidden, w);
            if (accumulate) add_terms(terms.dhidden, dhidden);
            add_terms(terms.dw, dw);
            const double stored = GetParam() == DType::bf16 ? unit(DType::bf16) : 0.0;
            expect_within(got_dhidden, want_dhidden, terms.dhidden, share + stored, "dhidden");
            expect_within(got_dw, want_dw, terms.dw, share + 2.0 * stored, "dw");
        }
}

TEST_P(CudaHeads, TokenCrossEntropyAndItsGradient) {
    for (const Size& s : head_sizes)
        for (int flags = 0; flags < 16; ++flags) {
            const bool accumulate = (flags & 1) != 0;
            const bool keep = (flags & 2) != 0;
            const Masked masked = (flags & 4) != 0 ? Masked::some : Masked::none;
            const double lowered = (flags & 8) != 0 ? std::numeric_limits<double>::infinity() : 3.0;
            if (s.V == 1 && std::isinf(lowered)) continue;
            SCOPED_TRACE(cat(s.T, "x", s.C, "x", s.V, " flags ", flags));
            const Tensor hidden = normal({s.T, s.C}, GetParam());
            const Tensor w = normal({s.V, s.C}, GetParam(), 0.5);
            const Tensor hidden_ref = normal({s.T, s.C + 2}, GetParam());  // the reference may be another width
            const Tensor w_ref = normal({s.V, s.C + 2}, GetParam(), 0.5);
            const Tensor targets = some_targets(s, masked);
            const std::int32_t* target = targets.data<std::int32_t>();
            const Tensor dce = normal({s.T}, DType::f32);
            const Tensor kept = keep ? on(poisoned({num_targets(targets), s.V}, GetParam())) : Tensor();
            const Tensor ce = on(poisoned({s.T}, DType::f32));
            const Tensor want_ce = poisoned({s.T}, DType::f64);
            token_cross_entropy(ce, on(hidden), on(w), on(hidden_ref), on(w_ref), targets, lowered, kept);
            token_cross_entropy(want_ce, wide(hidden), wide(w), wide(hidden_ref), wide(w_ref), targets, lowered);
            // As of the divergence: a sum of q log p with each factor off by its share.
            const double scale = scale_of(hidden, w) + scale_of(hidden_ref, w_ref) + 3.0;
            const double share = 1e-5 * scale;
            expect_within(ce, want_ce, Tensor::full({s.T}, DType::f64, 1.0 + 2.0 * scale), share, "ce");
            const Tensor dhidden = output({s.T, s.C}, GetParam(), accumulate);
            const Tensor dw = normal({s.V, s.C}, DType::f32);
            const Tensor got_dhidden = on(dhidden).clone();
            const Tensor got_dw = on(dw).clone();
            const Tensor want_dhidden = wide(dhidden).clone();
            const Tensor want_dw = wide(dw).clone();
            token_cross_entropy_backward(got_dhidden, got_dw, on(dce), on(hidden), on(w), on(hidden_ref), on(w_ref),
                                         targets, lowered, accumulate, kept);
            token_cross_entropy_backward(want_dhidden, want_dw, wide(dce), wide(hidden), wide(w), wide(hidden_ref),
                                         wide(w_ref), targets, lowered, accumulate);
            const Tensor q = probabilities(hidden_ref, w_ref);
            for (std::int64_t t = 0; t < s.T; ++t) {
                double* row = q.data<double>() + t * s.V;
                if (target[t] >= 0) row[target[t]] *= std::exp(-lowered);
                double sum = 0.0;
                for (std::int64_t v = 0; v < s.V; ++v) sum += row[v];
                for (std::int64_t v = 0; v < s.V; ++v) row[v] /= sum;
            }
            const Tensor d = probabilities(hidden, w);
            axpby(d, 1.0, q, 1.0);
            (void)kept_rows(d, [&](std::int64_t t) { return target[t] >= 0; });
            const HeadTerms terms(d, dce, hidden, w);
            if (accumulate) add_terms(terms.dhidden, dhidden);
            add_terms(terms.dw, dw);
            const double stored = GetParam() == DType::bf16 ? unit(DType::bf16) : 0.0;
            expect_within(got_dhidden, want_dhidden, terms.dhidden, share + stored, "dhidden");
            expect_within(got_dw, want_dw, terms.dw, share + 2.0 * stored, "dw");
        }
}

TEST_P(CudaHeads, OwnSoftLabels) {
    for (const Size& s : head_sizes)
        for (int flags = 0; flags < 8; ++flags) {
            const bool keep = (flags & 1) != 0;
            const Masked masked = (flags & 2) != 0 ? Masked::some : Masked::none;
            const double lowered = (flags & 4) != 0 ? std::numeric_limits<double>::infinity() : 3.0;
            if (s.V == 1 && std::isinf(lowered)) continue;
            SCOPED_TRACE(cat(s.T, "x", s.C, "x", s.V, " flags ", flags));
            const Tensor hidden = normal({s.T, s.C}, GetParam());
            const Tensor w = normal({s.V, s.C}, GetParam(), 0.5);
            const Tensor targets = some_targets(s, masked);
            const std::int32_t* target = targets.data<std::int32_t>();
            const Tensor dce = normal({s.T}, DType::f32);
            const Tensor kept = keep ? on(poisoned({num_targets(targets), s.V}, GetParam())) : Tensor();
            const Tensor ce = on(poisoned({s.T}, DType::f32));
            const Tensor want_ce = poisoned({s.T}, DType::f64);
            token_cross_entropy(ce, on(hidden), on(w), {}, {}, targets, lowered, kept);
            token_cross_entropy(want_ce, wide(hidden), wide(w), {}, {}, targets, lowered);
            const double scale = 2.0 * scale_of(hidden, w) + 3.0;
            const double share = 1e-5 * scale;
            expect_within(ce, want_ce, Tensor::full({s.T}, DType::f64, 1.0 + 2.0 * scale), share, "ce");
            const Tensor dw = normal({s.V, s.C}, DType::f32);
            const Tensor got_dhidden = on(poisoned({s.T, s.C}, GetParam()));
            const Tensor got_dw = on(dw).clone();
            const Tensor want_dhidden = poisoned({s.T, s.C}, DType::f64);
            const Tensor want_dw = wide(dw).clone();
            token_cross_entropy_backward(got_dhidden, got_dw, on(dce), on(hidden), on(w), {}, {}, targets, lowered,
                                         false, kept);
            token_cross_entropy_backward(want_dhidden, want_dw, wide(dce), wide(hidden), wide(w), {}, {}, targets,
                                         lowered, false);
            const Tensor d = probabilities(hidden, w);
            for (std::int64_t t = 0; t < s.T; ++t) {  // p_y (1 - e^-lowered) |onehot - q|, which does not cancel
                if (target[t] < 0) continue;
                double* row = d.data<double>() + t * s.V;
                const double moved = row[target[t]] * -std::expm1(-lowered);
                for (std::int64_t v = 0; v < s.V; ++v)
                    row[v] = moved * (v == target[t] ? 1.0 - row[v] : row[v]) / (1.0 - moved);
            }
            (void)kept_rows(d, [&](std::int64_t t) { return target[t] >= 0; });
            const HeadTerms terms(d, dce, hidden, w);
            add_terms(terms.dw, dw);
            const double stored = GetParam() == DType::bf16 ? unit(DType::bf16) : 0.0;
            expect_within(got_dhidden, want_dhidden, terms.dhidden, share + stored, "dhidden");
            expect_within(got_dw, want_dw, terms.dw, share + 2.0 * stored, "dw");
        }
}

TEST_P(CudaHeads, AModelDivergesFromItselfByNothing) {
    const Tensor hidden = on(normal({9, 16}, GetParam()));
    const Tensor w = on(normal({50, 16}, GetParam()));
    const Tensor kl = on(poisoned({9}, DType::f32));
    token_kl(kl, hidden, w, hidden, w);
    for (const double v : values(kl.to(Device{}))) EXPECT_EQ(v, 0.0);
}

TEST_P(CudaHeads, ASureTokenKeepsTheDigitsOfItsDistanceFromOne) {
    // Token 3 of V is 20 above the others: 1 - p is (V - 1) e^-20, 30 times less than f32 tells from 1.
    constexpr std::int64_t V = 8;
    std::vector<double> column(V, 0.0);
    column[3] = 20.0;
    const Tensor hidden = on(Tensor::full({1, 1}, GetParam(), 1.0));
    const Tensor w = on(from_doubles(column, {V, 1}, GetParam()));
    const Tensor logp = on(poisoned({1}, DType::f32));
    const Tensor d = on(poisoned({1, V}, GetParam()));
    token_logprob(logp, hidden, w, Tensor::from(std::vector<std::int32_t>{3}), {}, d);
    const double rest = std::exp(-20.0);
    std::vector<double> want(V, -rest);
    want[3] = (V - 1) * rest;
    expect_elements(d, Tensor::from(want, {1, V}));
    expect_elements(logp, Tensor::from(std::vector<double>{-(V - 1) * rest}));
}

TEST_P(CudaHeads, ABatchOfManyChunksIsTheSumOfItsRows) {
    // So wide that 37 rows do not fit one chunk of logits.
    const Size s{37, 2, 270001};
    const Tensor hidden = normal({s.T, s.C}, GetParam());
    const Tensor w = normal({s.V, s.C}, GetParam());
    const Tensor targets = some_targets(s, Masked::some);
    const Tensor dlogp = normal({s.T}, DType::f32);
    const Tensor logp = on(poisoned({s.T}, DType::f32));
    const Tensor want = poisoned({s.T}, DType::f64);
    token_logprob(logp, on(hidden), on(w), targets);
    token_logprob(want, wide(hidden), wide(w), targets);
    const double scale = scale_of(hidden, w);
    const double share = 1e-5 * scale;
    expect_within(logp, want, Tensor::full({s.T}, DType::f64, 1.0), share, "logp");
    const Tensor dhidden = on(poisoned({s.T, s.C}, GetParam()));
    const Tensor dw = on(Tensor::zeros({s.V, s.C}, DType::f32));
    token_logprob_backward(dhidden, dw, on(dlogp), on(hidden), on(w), targets, false);
    const Tensor want_dhidden = poisoned({s.T, s.C}, DType::f64);
    const Tensor want_dw = Tensor::zeros({s.V, s.C}, DType::f64);
    token_logprob_backward(want_dhidden, want_dw, wide(dlogp), wide(hidden), wide(w), targets, false);
    // The terms of a row's gradient add up to twice the largest |w| at most, times |dlogp|: below 8 for each. A sum of
    // V terms that are nearly all alike is off by more roundings than chance would make it: 1e-5 covers 168 of them.
    const double stored = GetParam() == DType::bf16 ? unit(DType::bf16) : 0.0;
    expect_within(dhidden, want_dhidden, Tensor::full({s.T, s.C}, DType::f64, 64.0), share + stored, "dhidden");
    EXPECT_LE(norm_error(dw, want_dw), share + 2.0 * stored);
}

TEST_P(CudaHeads, ArgmaxIsTheFirstOfTheLargestAndPassesOverNaN) {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const double infinity = std::numeric_limits<double>::infinity();
    for (const std::int64_t V : {1, 7, 8, 33, 1000, 9000}) {
        Tensor x = normal({7, V}, DType::f64);
        double* row = x.data<double>();
        const auto last = static_cast<std::size_t>(V - 1);
        row[last] = 100.0;
        row[V + 0] = row[V + V / 2] = row[V + V - 1] = 100.0;
        std::fill(row + 2 * V, row + 3 * V, -infinity);
        std::fill(row + 3 * V, row + 4 * V, nan);
        std::fill(row + 4 * V, row + 5 * V, nan);
        row[4 * V + V / 3] = -1e30;
        std::fill(row + 5 * V, row + 6 * V, -2.0);
        row[6 * V + V / 2] = nan;
        row[6 * V + V - 1] = infinity;
        const Tensor y = poisoned({7}, DType::i32);
        const Tensor want = poisoned({7}, DType::i32);
        argmax(y, on(x.to(GetParam())));
        argmax(want, x.to(GetParam()));
        EXPECT_EQ(y.to_vector<std::int32_t>(), want.to_vector<std::int32_t>()) << V;
        const auto v = static_cast<std::int32_t>(V);
        const std::vector<std::int32_t> known{v - 1, 0, 0, 0, v / 3, 0, v - 1};
        EXPECT_EQ(want.to_vector<std::int32_t>(), known) << V;
    }
    argmax(Tensor::empty({0}, DType::i32), on(Tensor::empty({0, 5}, GetParam())));
}

TEST_P(CudaHeads, TheLikeliestTokenIsTheFirstOfEqualLogits) {
    const Tensor hidden = Tensor::full({1, 2}, GetParam(), 1.0);
    const Tensor w = from_doubles({0, 0, 1, 1, 0, 0, 1, 1}, {4, 2}, GetParam());
    const Tensor likeliest = poisoned({1}, DType::i32);
    token_logprob(on(poisoned({1}, DType::f32)), on(hidden), on(w), Tensor::from(std::vector<std::int32_t>{0}),
                  likeliest);
    EXPECT_EQ(likeliest.item(), 1.0);
}

}  // namespace
}  // namespace uipe::tensor::test
