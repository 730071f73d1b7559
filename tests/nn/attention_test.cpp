// Attention against its formula, element by element in f64, and a cache against no cache.
#include "nn/attention.h"

#include <gtest/gtest.h>

#include <cstring>

#include "tests/autograd/inputs.h"

namespace uipe::nn {
namespace {

using test::apart;
using test::ints;
using test::normal;
using test::packed;
using test::same_bits;

constexpr std::int64_t C = 10;
constexpr std::int64_t H = 4;
constexpr std::int64_t K = 2;
constexpr std::int64_t D = 6;
constexpr double theta = 100.0;  // small, so that every pair of elements turns visibly

struct Weights {
    Tensor q = normal({H * D, C}, 1, 0.5);
    Tensor k = normal({K * D, C}, 2, 0.5);
    Tensor v = normal({K * D, C}, 3, 0.5);
    Tensor o = normal({C, H* D}, 4, 0.5);

    Attention layer() const { return {q, k, v, o, D, theta}; }
};

using Row = std::vector<double>;

Row row_times(const Row& x, const Tensor& w) {
    Row y(static_cast<std::size_t>(w.dim(0)), 0.0);
    for (std::size_t n = 0; n < y.size(); ++n)
        for (std::size_t c = 0; c < x.size(); ++c) y[n] += x[c] * w.data<double>()[n * x.size() + c];
    return y;
}

/// Turns each head's pairs (i, i + D/2) by position * theta^(-2i/D).
Row turned(Row x, int position) {
    for (std::size_t head = 0; head < x.size(); head += D)
        for (std::size_t i = 0; i < D / 2; ++i) {
            const double angle = position * std::pow(theta, -2.0 * static_cast<double>(i) / D);
            const double a = x[head + i];
            const double b = x[head + i + D / 2];
            x[head + i] = a * std::cos(angle) - b * std::sin(angle);
            x[head + i + D / 2] = a * std::sin(angle) + b * std::cos(angle);
        }
    return x;
}

/// The rows of one sequence, by the formula of Vaswani et al. 2017 with a causal mask.
std::vector<Row> attention_of(const std::vector<Row>& x, const Weights& w) {
    std::vector<Row> q;
    std::vector<Row> k;
    std::vector<Row> v;
    std::vector<Row> y;
    for (std::size_t t = 0; t < x.size(); ++t) {
        q.push_back(turned(row_times(x[t], w.q), static_cast<int>(t)));
        k.push_back(turned(row_times(x[t], w.k), static_cast<int>(t)));
        v.push_back(row_times(x[t], w.v));
        Row heads(H * D, 0.0);
        for (std::size_t h = 0; h < H; ++h) {
            const std::size_t from = h / (H / K) * D;
            Row p(t + 1);
            double total = 0.0;
            for (std::size_t s = 0; s <= t; ++s) {
                double score = 0.0;
                for (std::size_t d = 0; d < D; ++d) score += q[t][h * D + d] * k[s][from + d];
                total += p[s] = std::exp(score / std::sqrt(double{D}));
            }
            for (std::size_t s = 0; s <= t; ++s)
                for (std::size_t d = 0; d < D; ++d) heads[h * D + d] += p[s] / total * v[s][from + d];
        }
        y.push_back(row_times(heads, w.o));
    }
    return y;
}

Tensor row_of(const Row& row) { return Tensor::from(row, {1, static_cast<std::int64_t>(row.size())}); }

TEST(Attention, EqualsItsFormula) {
    const Weights w;
    const Tensor x = normal({9, C}, 5);
    const Packing packing{ints({0, 1, 2, 3, 4, 0, 0, 1, 2}), packed({5, 1, 3})};
    const Tensor y = w.layer()(Variable(x), packing).value();
    for (const auto& [begin, end] : {std::pair{0, 5}, std::pair{5, 6}, std::pair{6, 9}}) {
        std::vector<Row> rows;
        for (std::int64_t t = begin; t < end; ++t) rows.push_back(x.rows(t, t + 1).to_vector<double>());
        const std::vector<Row> expected = attention_of(rows, w);
        for (std::int64_t t = begin; t < end; ++t)
            EXPECT_LE(apart(y.rows(t, t + 1), row_of(expected[static_cast<std::size_t>(t - begin)])), 1e-13) << t;
    }
}

TEST(Attention, SeesNoLaterTokenAndNoOtherSequence) {
    const Attention layer = Weights().layer();
    const Packing packing{ints({0, 1, 2, 3, 0, 1}), packed({4, 2})};
    const Tensor x = normal({6, C}, 5);
    const Tensor before = layer(Variable(x), packing).value();
    x.data<double>()[2 * C] += 1.0;  // row 2, in the first sequence
    const Tensor after = layer(Variable(x), packing).value();
    for (const std::int64_t t : {0, 1, 4, 5})
        EXPECT_TRUE(same_bits(before.rows(t, t + 1), after.rows(t, t + 1))) << "row " << t;
    for (const std::int64_t t : {2, 3}) EXPECT_GT(apart(before.rows(t, t + 1), after.rows(t, t + 1)), 1e-3);
}

TEST(Attention, SharedRowsEqualWholeSequences) {
    const Attention layer = Weights().layer();
    const Tensor x = normal({9, C}, 5);  // rows 0 to 5 are one sequence; 0, 1, 6, 7 another; 0, 1, 6, 8 the third
    const Packing shared{ints({0, 1, 2, 3, 4, 5, 2, 3, 3}), packed({6, 2, 1}),
                         ints({0, 1, 2, 3, 4, 5, 0, 1, 6, 7, 0, 1, 6, 8}), packed({6, 4, 4})};
    EXPECT_THROW(layer(Variable(x), shared), Error) << "it has no gradient";
    const autograd::NoGrad guard;
    const Tensor y = layer(Variable(x), shared).value();
    const auto alone = [&](const std::vector<std::int64_t>& rows) {
        const auto n = static_cast<std::int64_t>(rows.size());
        const Tensor part = Tensor::empty({n, C}, tensor::DType::f64);
        std::vector<std::int32_t> positions;
        for (std::int64_t i = 0; i < n; ++i) {
            const std::int64_t t = rows[static_cast<std::size_t>(i)];
            tensor::copy(part.rows(i, i + 1), x.rows(t, t + 1));
            positions.push_back(static_cast<std::int32_t>(i));
        }
        return layer(Variable(part), {Tensor::from(positions), packed({static_cast<std::int32_t>(n)})}).value();
    };
    EXPECT_LE(apart(y.rows(0, 6), alone({0, 1, 2, 3, 4, 5})), 1e-14);
    EXPECT_LE(apart(y.rows(6, 8), alone({0, 1, 6, 7}).rows(2, 4)), 1e-14);
    EXPECT_LE(apart(y.rows(8, 9), alone({0, 1, 6, 8}).rows(3, 4)), 1e-14);
}

TEST(Attention, Names) {
    std::vector<std::string> names;
    for (const Parameter& p : Weights().layer().parameters("a.")) names.push_back(p.name);
    EXPECT_EQ(names,
              (std::vector<std::string>{"a.q_proj.weight", "a.k_proj.weight", "a.v_proj.weight", "a.o_proj.weight"}));
}

}  // namespace
}  // namespace uipe::nn
