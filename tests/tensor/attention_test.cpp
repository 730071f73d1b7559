// attention and attention_backward against sums written from the formulas, in f64.
#include <algorithm>
#include <optional>

#include "tests/tensor/attention_inputs.h"

namespace uipe::tensor::test {
namespace {

const std::vector<Layout>& layouts() {
    static const std::vector<Layout> all{
        {{1}, 1, 1, 2},           {{3, 1, 7}, 2, 1, 6}, {{0, 17, 0, 33, 0}, 3, 3, 8}, {{31, 32, 33}, 4, 2, 10},
        {{63, 64, 65}, 2, 2, 16}, {{130, 5}, 4, 1, 64}, {{97, 129}, 3, 1, 18},        {{0}, 2, 1, 8},
    };
    return all;
}

/// Sequences whose first keys have no query: one query, all, none, and tiles that start and end anywhere.
const std::vector<Layout>& layouts_behind_a_prefix() {
    static const std::vector<Layout> all{
        {{1, 9}, 1, 1, 2, {1, 1}},
        {{7, 5, 33}, 4, 2, 6, {7, 1, 0}},
        {{65, 64, 130, 31}, 6, 3, 10, {33, 32, 64, 30}},
        {{200, 0, 150, 97}, 2, 1, 16, {1, 0, 87, 96}},
        {{129, 128}, 3, 3, 18, {65, 127}},
    };
    return all;
}

/// Calls body(i, h, from, last): query row i of head h sees the keys of rows from … last.
template <class Body>
void for_each_query(const Inputs& in, const Body& body) {
    const auto cu = in.cu.to_vector<std::int32_t>();
    const auto keys = in.cu_keys.to_vector<std::int32_t>();
    for (std::size_t b = 0; b + 1 < cu.size(); ++b)
        for (std::int64_t i = cu[b]; i < cu[b + 1]; ++i)
            for (std::int64_t h = 0; h < in.H; ++h) body(i, h, std::int64_t{keys[b]}, keys[b + 1] - (cu[b + 1] - i));
}

/// A product of two heads, and the sum of its terms' absolute values.
Want dot(const std::vector<double>& a, std::int64_t at, const std::vector<double>& b, std::int64_t bt, std::int64_t D) {
    Want w;
    for (std::int64_t d = 0; d < D; ++d)
        w.add(a[static_cast<std::size_t>(at + d)] * b[static_cast<std::size_t>(bt + d)]);
    return w;
}

/// The scaled scores of one query over its keys. `spread` is the largest sum of absolute terms: an error of D + 3
/// roundings in a score of that size is an error of as many times `spread` roundings, relative, in exp(score).
struct Scores {
    std::vector<double> s;
    double spread = 1.0;
};

Scores scores_of(const Inputs& in, const std::vector<double>& q, const std::vector<double>& k, std::int64_t i,
                 std::int64_t h, std::int64_t from, std::int64_t last) {
    Scores out;
    const double scale = 1.0 / std::sqrt(static_cast<double>(in.D));
    for (std::int64_t j = from; j <= last; ++j) {
        const Want w = dot(q, (i * in.H + h) * in.D, k, (j * in.K + h / (in.H / in.K)) * in.D, in.D);
        out.s.push_back(scale * w.value);
        out.spread = std::max(out.spread, scale * w.terms);
    }
    return out;
}

struct Forward {
    std::vector<Want> out, lse;
};

Forward reference_forward(const Inputs& in) {
    const auto q = values(in.q);
    const auto k = values(in.k);
    const auto v = values(in.v);
    Forward r{std::vector<Want>(q.size()), std::vector<Want>(static_cast<std::size_t>(in.T * in.H))};
    for_each_query(in, [&](std::int64_t i, std::int64_t h, std::int64_t from, std::int64_t last) {
        const Scores scores = scores_of(in, q, k, i, h, from, last);
        double total = 0.0;
        for (const double s : scores.s) total += std::exp(s);
        const double lse = std::log(total);
        r.lse[static_cast<std::size_t>(i * in.H + h)] = {lse, scores.spread + std::abs(lse)};
        for (std::int64_t d = 0; d < in.D; ++d) {
            Want& w = r.out[static_cast<std::size_t>((i * in.H + h) * in.D + d)];
            for (std::int64_t j = from; j <= last; ++j)
                w.add(std::exp(scores.s[static_cast<std::size_t>(j - from)] - lse) *
                      v[static_cast<std::size_t>((j * in.K + h / (in.H / in.K)) * in.D + d)]);
            w.terms *= scores.spread;
        }
    });
    return r;
}

/// Roundings of a weighted sum over one sequence: the score (D + 3), twice (its own and the normaliser's), exp (2 ulp,
/// that is 4 roundings, twice), the sums over keys. In bf16 the weights are rounded once more, to bf16.
double roundings(const Inputs& in) {
    const DType dtype = in.q.dtype();
    const double weights = dtype == DType::bf16 ? unit(dtype) / unit(accumulator_of(dtype)) : 0.0;
    return static_cast<double>(2 * (in.D + 3) + 8 + 2 * in.S + 8) + weights;
}

struct Gradients {
    std::vector<Want> dq, dk, dv;
};

/// From the out and lse that the op is given, as rounded: what remains is the op's own error.
Gradients reference_backward(const Inputs& in, const Tensor& out_tensor, const Tensor& lse_tensor) {
    const auto q = values(in.q);
    const auto k = values(in.k);
    const auto v = values(in.v);
    const auto dout = values(in.dout);
    const auto out = values(out_tensor);
    const auto lse = values(lse_tensor);
    const double scale = 1.0 / std::sqrt(static_cast<double>(in.D));
    Gradients r{std::vector<Want>(q.size()), std::vector<Want>(k.size()), std::vector<Want>(v.size())};
    for_each_query(in, [&](std::int64_t i, std::int64_t h, std::int64_t from, std::int64_t last) {
        const std::int64_t row = (i * in.H + h) * in.D;
        const Scores scores = scores_of(in, q, k, i, h, from, last);
        const Want delta = dot(dout, row, out, row, in.D);
        const double l = lse[static_cast<std::size_t>(i * in.H + h)];
        const double spread = scores.spread + std::abs(l);
        for (std::int64_t j = from; j <= last; ++j) {
            const std::int64_t key = (j * in.K + h / (in.H / in.K)) * in.D;
            const double p = std::exp(scores.s[static_cast<std::size_t>(j - from)] - l);
            const Want dp = dot(dout, row, v, key, in.D);
            const double ds = scale * p * (dp.value - delta.value);
            const double ds_terms = scale * p * (dp.terms + delta.terms) * spread;
            for (std::int64_t d = 0; d < in.D; ++d) {
                const auto at = static_cast<std::size_t>(row + d);
                const auto to = static_cast<std::size_t>(key + d);
                r.dv[to].value += p * dout[at];
                r.dv[to].terms += p * std::abs(dout[at]) * spread;
                r.dq[at].value += ds * k[to];
                r.dq[at].terms += ds_terms * std::abs(k[to]);
                r.dk[to].value += ds * q[at];
                r.dk[to].terms += ds_terms * std::abs(q[at]);
            }
        }
    });
    return r;
}

void expect_forward(const std::vector<Layout>& all, DType dtype) {
    for (const Layout& s : all) {
        SCOPED_TRACE(name(s));
        const Inputs in(s, dtype);
        const Tensor out = poisoned(in.q.shape(), dtype);
        const Tensor lse = poisoned({in.T, in.H}, accumulator_of(dtype));
        attention(out, lse, in.q, in.k, in.v, in.cu, in.cu_keys, in.D);
        const Forward want = reference_forward(in);
        expect_near(out, want.out, roundings(in), "out");
        expect_near(lse, want.lse, roundings(in), "lse");
    }
}

class Attention : public EachType {};
UIPE_EACH_FLOAT_TYPE(Attention);

TEST_P(Attention, ForwardIsTheCausalSoftmaxOfEachSequenceForEveryShape) { expect_forward(layouts(), GetParam()); }

TEST_P(Attention, ForwardOfTheLastQueriesSeesTheKeysBeforeThem) {
    expect_forward(layouts_behind_a_prefix(), GetParam());
}

TEST_P(Attention, TheLastQueriesGetTheBitsOfTheWholeSequence) {
    const Inputs in({{150, 70}, 4, 2, 10}, GetParam());
    const Tensor out = poisoned(in.q.shape(), GetParam());
    attention(out, poisoned({in.T, in.H}, accumulator_of(GetParam())), in.q, in.k, in.v, in.cu, in.cu, in.D);
    for (const std::int32_t n : {1, 31, 32, 33, 100, 149}) {
        const Tensor last = poisoned({n, in.H * in.D}, GetParam());
        const Tensor lse = poisoned({n, in.H}, accumulator_of(GetParam()));
        attention(last, lse, in.q.rows(150 - n, 150), in.k.rows(0, 150), in.v.rows(0, 150), packed({n}), packed({150}),
                  in.D);
        EXPECT_TRUE(same_bits(last, out.rows(150 - n, 150))) << n << " queries";
    }
}

TEST_P(Attention, BackwardIsTheGradientFormulaOverwritingOrAddingToEachOutput) {
    for (const Layout& s : layouts())
        for (const int flags : {0, 3, 5, 6}) {
            SCOPED_TRACE(cat(name(s), " accumulate flags ", flags));
            const Inputs in(s, GetParam());
            const Tensor out = poisoned(in.q.shape(), GetParam());
            const Tensor lse = poisoned({in.T, in.H}, accumulator_of(GetParam()));
            attention(out, lse, in.q, in.k, in.v, in.cu, in.cu_keys, in.D);
            const bool to_q = (flags & 1) != 0;
            const bool to_k = (flags & 2) != 0;
            const bool to_v = (flags & 4) != 0;
            const Tensor dq = output(in.q.shape(), GetParam(), to_q);
            const Tensor dk = output(in.k.shape(), GetParam(), to_k);
            const Tensor dv = output(in.v.shape(), GetParam(), to_v);
            Gradients want = reference_backward(in, out, lse);
            if (to_q) add_before(want.dq, dq);
            if (to_k) add_before(want.dk, dk);
            if (to_v) add_before(want.dv, dv);
            attention_backward(dq, dk, dv, in.dout, in.q, in.k, in.v, out, lse, in.cu, in.D, to_q, to_k, to_v);
            const double n = roundings(in) + static_cast<double>(in.H / in.K * in.T);
            expect_near(dq, want.dq, n, "dq");
            expect_near(dk, want.dk, n, "dk");
            expect_near(dv, want.dv, n, "dv");
        }
}

TEST_P(Attention, HugeScoresNeitherOverflowNorLoseTheWinner) {
    // One key a query clearly prefers: out is its value, lse its score, whatever the scale. Of the largest scores here
    // an f32's last bit is two thousand: a difference of products, one of them rounded, would be no exponent.
    const std::int64_t T = 70;
    const std::int64_t D = 8;
    for (const double size : {1024.0, 333333.0}) {
        std::vector<double> q(static_cast<std::size_t>(T * D));
        std::vector<double> k(q.size());
        for (std::int64_t t = 0; t < T; ++t) {
            q[static_cast<std::size_t>(t * D)] = size;
            k[static_cast<std::size_t>(t * D)] = t == 3 ? size / 2 : -size / 2;
        }
        const Tensor queries = from_doubles(q, {T, D}, GetParam());
        const Tensor keys = from_doubles(k, {T, D}, GetParam());
        const Tensor v = normal({T, D}, GetParam());
        const Tensor out = poisoned({T, D}, GetParam());
        const Tensor lse = poisoned({T, 1}, accumulator_of(GetParam()));
        const Tensor cu = packed({static_cast<std::int32_t>(T)});
        attention(out, lse, queries, keys, v, cu, cu, D);
        const auto got = values(out);
        const auto value = values(v);
        const double score = values(queries)[0] * values(keys)[static_cast<std::size_t>(3 * D)] / std::sqrt(8.0);
        for (std::int64_t t = 3; t < T; ++t) {
            for (std::int64_t d = 0; d < D; ++d)
                EXPECT_EQ(got[static_cast<std::size_t>(t * D + d)], value[static_cast<std::size_t>(3 * D + d)]);
            EXPECT_NEAR(values(lse)[static_cast<std::size_t>(t)], score, 4 * score * unit(lse.dtype()));
        }
        const Tensor dq = poisoned({T, D}, GetParam()), dk = poisoned({T, D}, GetParam()),
                     dv = poisoned({T, D}, GetParam());
        attention_backward(dq, dk, dv, v, queries, keys, v, out, lse, cu, D, false, false, false);
        for (const Tensor& gradient : {dq, dk, dv}) EXPECT_TRUE(all_finite(gradient));
    }
}

TEST_P(Attention, AChangedTokenChangesNothingBeforeItNorInOtherSequences) {
    const Layout s{{40, 37}, 2, 1, 16};
    const Inputs in(s, GetParam());
    auto run = [&](const Tensor& k, const Tensor& v) {
        const Tensor out = poisoned(in.q.shape(), GetParam());
        attention(out, poisoned({in.T, in.H}, accumulator_of(GetParam())), in.q, k, v, in.cu, in.cu_keys, in.D);
        return out;
    };
    const Tensor before = run(in.k, in.v);
    const Tensor k = in.k.clone();
    const Tensor v = in.v.clone();
    fill(k.rows(20, 21), 3.0);
    fill(v.rows(20, 21), -2.0);
    const Tensor after = run(k, v);
    EXPECT_TRUE(same_bits(before.rows(0, 20), after.rows(0, 20)));
    EXPECT_TRUE(same_bits(before.rows(40, 77), after.rows(40, 77)));
    for (std::int64_t t = 20; t < 40; ++t) EXPECT_FALSE(same_bits(before.rows(t, t + 1), after.rows(t, t + 1))) << t;
}

TEST_P(Attention, ForwardAndBackwardGiveTheSameBitsForAnyThreads) {
    const Inputs in({{70, 1, 33, 129, 12}, 6, 3, 10}, GetParam());
    expect_same_bits_for_any_threads([&] {
        const Tensor out = poisoned(in.q.shape(), GetParam());
        const Tensor lse = poisoned({in.T, in.H}, accumulator_of(GetParam()));
        const Tensor dq = poisoned(in.q.shape(), GetParam());
        const Tensor dk = poisoned(in.k.shape(), GetParam());
        const Tensor dv = poisoned(in.v.shape(), GetParam());
        attention(out, lse, in.q, in.k, in.v, in.cu, in.cu_keys, in.D);
        attention_backward(dq, dk, dv, in.dout, in.q, in.k, in.v, out, lse, in.cu, in.D, false, false, false);
        return std::vector<Tensor>{out, lse, dq, dk, dv};
    });
}

// --- Decoding -----------------------------------------------------------------------------------------------------

class AttentionDecode : public EachType {};
UIPE_EACH_FLOAT_TYPE(AttentionDecode);

TEST_P(AttentionDecode, EqualsTheFormulaForEveryLengthOutOfOrderSlotsAndGroups) {
    for (const auto& [H, K, D] : {std::array<std::int64_t, 3>{1, 1, 2}, {6, 2, 10}, {4, 4, 64}, {3, 1, 33}}) {
        SCOPED_TRACE(cat("H ", H, " K ", K, " D ", D));
        const std::int64_t capacity = 37;
        const std::vector<std::int32_t> slot{4, 0, 2, 5};
        const std::vector<std::int32_t> length{1, 37, 16, 7};
        const auto B = static_cast<std::int64_t>(slot.size());
        const Tensor q = normal({B, H * D}, GetParam());
        const Tensor cache_k = normal({6, capacity, K * D}, GetParam());
        const Tensor cache_v = normal({6, capacity, K * D}, GetParam());
        for (std::int64_t b = 0; b < B; ++b)  // what lies past the length must not be read: NaN there
            for (const Tensor& cache : {cache_k, cache_v}) {
                const auto at = static_cast<std::size_t>(b);
                const Tensor rows = cache.view({6 * capacity, K * D});
                fill(rows.rows(slot[at] * capacity + length[at], (slot[at] + 1) * capacity), std::nan(""));
            }
        const Tensor out = poisoned(q.shape(), GetParam());
        attention_decode(out, q, cache_k, cache_v, Tensor::from(slot), Tensor::from(length), D);
        const auto vq = values(q);
        const auto vk = values(cache_k);
        const auto vv = values(cache_v);
        std::vector<Want> want(vq.size());
        for (std::int64_t b = 0; b < B; ++b)
            for (std::int64_t h = 0; h < H; ++h) {
                const std::int64_t n = length[static_cast<std::size_t>(b)];
                const std::int64_t row = slot[static_cast<std::size_t>(b)] * capacity * K * D + h / (H / K) * D;
                std::vector<double> p;
                double total = 0.0;
                double spread = 1.0;
                for (std::int64_t j = 0; j < n; ++j) {
                    const Want s = dot(vq, (b * H + h) * D, vk, row + j * K * D, D);
                    p.push_back(std::exp(s.value / std::sqrt(static_cast<double>(D))));
                    total += p.back();
                    spread = std::max(spread, s.terms / std::sqrt(static_cast<double>(D)));
                }
                for (std::int64_t d = 0; d < D; ++d) {
                    Want& w = want[static_cast<std::size_t>((b * H + h) * D + d)];
                    for (std::int64_t j = 0; j < n; ++j)
                        w.add(p[static_cast<std::size_t>(j)] / total *
                              vv[static_cast<std::size_t>(row + j * K * D + d)]);
                    w.terms *= spread;
                }
            }
        expect_near(out, want, static_cast<double>(2 * (D + 3) + 8 + 2 * capacity + 8));
    }
}

TEST_P(AttentionDecode, AgreesWithTheLastRowOfAttentionThroughTheCache) {
    const Inputs in({{45}, 4, 2, 16}, GetParam());
    const Tensor out = poisoned(in.q.shape(), GetParam());
    attention(out, poisoned({in.T, in.H}, accumulator_of(GetParam())), in.q, in.k, in.v, in.cu, in.cu_keys, in.D);
    const Tensor cache_k = poisoned({3, 50, in.K * in.D}, GetParam());
    const Tensor cache_v = poisoned({3, 50, in.K * in.D}, GetParam());
    std::vector<std::int32_t> position(static_cast<std::size_t>(in.T));
    std::iota(position.begin(), position.end(), 0);
    const Tensor slots = Tensor::from(std::vector<std::int32_t>(position.size(), 1));
    cache_write(cache_k, in.k, slots, Tensor::from(position));
    cache_write(cache_v, in.v, slots, Tensor::from(position));
    const Tensor last = poisoned({1, in.H * in.D}, GetParam());
    attention_decode(last, in.q.rows(44, 45), cache_k, cache_v, Tensor::from(std::vector<std::int32_t>{1}),
                     Tensor::from(std::vector<std::int32_t>{45}), in.D);
    const auto all = reference_forward(in).out;
    expect_near(last, {all.end() - in.H * in.D, all.end()}, roundings(in));
}

TEST_P(AttentionDecode, GivesTheSameBitsForAnyThreads) {
    const Tensor q = normal({5, 48}, GetParam());
    const Tensor cache = normal({5, 40, 24}, GetParam());
    const Tensor slots = Tensor::from(std::vector<std::int32_t>{0, 1, 2, 3, 4});
    const Tensor lengths = Tensor::from(std::vector<std::int32_t>{40, 3, 17, 25, 1});
    expect_same_bits_for_any_threads([&] {
        const Tensor out = poisoned(q.shape(), GetParam());
        attention_decode(out, q, cache, cache, slots, lengths, 8);
        return std::vector<Tensor>{out};
    });
}

TEST_P(AttentionDecode, CacheWriteTouchesItsPlacesOnlyAndTheLastWriterWins) {
    const Tensor cache = Tensor::full({3, 4, 6}, GetParam(), 9.0);
    const Tensor x = normal({3, 6}, GetParam());
    cache_write(cache, x, Tensor::from(std::vector<std::int32_t>{2, 0, 2}),
                Tensor::from(std::vector<std::int32_t>{3, 1, 3}));
    const Tensor rows = cache.view({12, 6});
    EXPECT_TRUE(same_bits(rows.rows(11, 12), x.rows(2, 3)));
    EXPECT_TRUE(same_bits(rows.rows(1, 2), x.rows(1, 2)));
    for (std::int64_t r = 0; r < 12; ++r)
        if (r != 11 && r != 1) {
            EXPECT_TRUE(same_bits(rows.rows(r, r + 1), Tensor::full({1, 6}, GetParam(), 9.0))) << r;
        }
}

TEST(Attention, RefusesWhatDoesNotFitNamingTheOp) {
    const Tensor q = normal({4, 12}, DType::f32);
    const Tensor k = normal({4, 8}, DType::f32);
    const Tensor lse = poisoned({4, 3}, DType::f32);
    auto message = [&](const Tensor& cu, std::int64_t D) -> std::string {
        try {
            attention(poisoned({4, 12}, DType::f32), lse, q, k, k, cu, cu, D);
        } catch (const Error& e) {
            return e.what();
        }
        return "";
    };
    EXPECT_NE(message(packed({4}), 4).find("attention"), std::string::npos);  // H 3, K 2
    EXPECT_NE(message(packed({4}), 5).find("attention"), std::string::npos);
    const Tensor half = normal({4, 4}, DType::f32);
    auto run = [&](const Tensor& keys, const Tensor& cu_queries, const Tensor& cu_keys) {
        attention(poisoned({4, 12}, DType::f32), lse, q, keys, keys, cu_queries, cu_keys, 4);
    };
    EXPECT_THROW(run(half, packed({3}), packed({3})), Error);
    EXPECT_THROW(run(half, packed({4}), packed({3})), Error);
    EXPECT_THROW(run(half, packed({3}), packed({4})), Error);
    EXPECT_THROW(run(half, packed({4}), packed({4, 0})), Error);
    EXPECT_THROW(run(half, packed({2, 2}), packed({3, 1})), Error);  // the second has fewer keys than queries
    EXPECT_THROW(run(half, Tensor::from(std::vector<std::int32_t>{0, 5, 4}), packed({2, 2})), Error);
    EXPECT_NO_THROW(run(half, packed({4}), packed({4})));
    const Tensor more = normal({6, 4}, DType::f32);
    EXPECT_THROW(run(more, packed({4}), packed({4})), Error);
    EXPECT_NO_THROW(run(more, packed({3, 1}), packed({3, 3})));
}

}  // namespace
}  // namespace uipe::tensor::test
