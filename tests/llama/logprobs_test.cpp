// Scoring: log-probabilities equal those of whole logits, whatever the batch size.
#include "llama/logprobs.h"

#include <gtest/gtest.h>

#include <numeric>

#include "tests/llama/models.h"

namespace uipe::llama {
namespace {

using tensor::DType;
using tensor::Tensor;

class Logprobs : public ::testing::Test {
    const test::Threads one_{1};
};

std::vector<Sequence> some_sequences(const Config& config) {
    return random_sequences(config, {9, 2, 31, 5, 17, 3, 12, 24, 2, 40});
}

/// log softmax of the logits of every row that has a target.
std::vector<std::vector<double>> rows_by_definition(const Llama& model, const Sequence& sequence) {
    const autograd::NoGrad guard;
    const Tensor hidden = model.hidden(pack({&sequence, 1})).value();
    const std::int64_t V = model.config().vocab_size;
    const Tensor logits = Tensor::empty({hidden.dim(0), V}, DType::f64);
    tensor::logits(logits, hidden, model.head().value());
    std::vector<std::vector<double>> out;
    for (std::int64_t t = sequence.first_target - 1; t < hidden.dim(0); ++t) {
        const double* row = logits.data<double>() + t * V;
        double total = 0.0;
        for (std::int64_t v = 0; v < V; ++v) total += std::exp(row[v]);
        out.emplace_back(row, row + V);
        for (double& logp : out.back()) logp -= std::log(total);
    }
    return out;
}

/// Those of the targets.
std::vector<double> by_definition(const Llama& model, const Sequence& sequence) {
    std::vector<double> out;
    auto t = static_cast<std::size_t>(sequence.first_target);
    for (const auto& logp : rows_by_definition(model, sequence))
        out.push_back(logp[static_cast<std::size_t>(sequence.ids[t++])]);
    return out;
}

TEST_F(Logprobs, EqualTheirDefinition) {
    const Llama model = lively_model(small_config(), DType::f64);
    const std::vector<Sequence> sequences = some_sequences(model.config());
    const auto logp = token_logprobs(model, sequences);
    ASSERT_EQ(logp.size(), sequences.size());
    for (std::size_t b = 0; b < sequences.size(); ++b) {
        const std::vector<double> expected = by_definition(model, sequences[b]);
        ASSERT_EQ(logp[b].size(), expected.size());
        for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(logp[b][i], expected[i], 1e-13);
    }
}

TEST_F(Logprobs, AreTheSameForEveryBatchSize) {
    for (const auto& [dtype, tolerance] : {std::pair{DType::f64, 1e-14}, std::pair{DType::f32, 3e-6}}) {
        const Llama model = lively_model(small_config(), dtype);
        const std::vector<Sequence> sequences = some_sequences(model.config());
        const auto whole = token_logprobs(model, sequences);
        for (const std::int64_t tokens : {1, 20, 64, 145}) {
            const auto cut = token_logprobs(model, sequences, tokens);
            for (std::size_t b = 0; b < sequences.size(); ++b) {
                const double sum = std::accumulate(whole[b].begin(), whole[b].end(), 0.0);
                EXPECT_NEAR(std::accumulate(cut[b].begin(), cut[b].end(), 0.0), sum, -tolerance * sum)
                    << "sequence " << b << ", " << tokens << " tokens a batch, " << name_of(dtype);
            }
        }
    }
}

/// Seven answers to each of some questions, some answers alike in their first ids, and text without a prompt.
std::vector<Sequence> answers_to_questions(const Config& config) {
    const std::vector<Sequence> pieces = random_sequences(config, {9, 30, 4, 17, 2, 25, 12, 40, 6, 3, 21, 5, 33, 8});
    std::vector<Sequence> out;
    for (const std::size_t question : {0, 1, 2}) {
        for (std::size_t answer = 0; answer < 7; ++answer) {
            Sequence s{pieces[question].ids, static_cast<std::int64_t>(pieces[question].ids.size())};
            const Sequence& body = pieces[7 + answer];
            if (answer > 3) s.ids.insert(s.ids.end(), pieces[6].ids.begin(), pieces[6].ids.end());
            s.ids.insert(s.ids.end(), body.ids.begin() + 1, body.ids.end());
            out.push_back(std::move(s));
        }
        out.push_back(out.back());
        out.push_back({pieces[3].ids, 1});
        out.push_back({pieces[3].ids, 5});
        out.push_back({pieces[3].ids, 17});  // no target
    }
    return out;
}

TEST_F(Logprobs, OfAnswersThatShareTheirQuestionAreThoseOfEachAlone) {
    // f64: every sum is over one row, in one order. f32: oneDNN may add in another order in a product of another shape;
    // some ten roundings of 2^-24 in log-probabilities about 30.
    for (const auto& [dtype, tolerance] : {std::pair{DType::f64, 0.0}, std::pair{DType::f32, 2e-5}}) {
        const Llama model = lively_model(small_config(), dtype);
        const std::vector<Sequence> sequences = answers_to_questions(model.config());
        const std::int64_t rows = pack_sharing(sequences).T;
        EXPECT_LT(rows, pack(sequences).T * 3 / 4) << "there must be something to share";
        for (const std::int64_t tokens : {8192, 100}) {
            const auto logp = token_logprobs(model, sequences, tokens);
            for (std::size_t b = 0; b < sequences.size(); ++b) {
                const std::vector<double> alone = token_logprobs(model, {&sequences[b], 1}).front();
                ASSERT_EQ(logp[b].size(), alone.size()) << b;
                for (std::size_t i = 0; i < alone.size(); ++i)
                    EXPECT_NEAR(logp[b][i], alone[i], tolerance) << "sequence " << b << ", target " << i;
            }
        }
    }
}

TEST_F(Logprobs, TokenScoresEqualTheirDefinition) {
    const Llama model = lively_model(small_config(), DType::f64);
    std::vector<Sequence> sequences = some_sequences(model.config());
    const auto largest = [](const std::vector<double>& x) { return std::max_element(x.begin(), x.end()); };
    Sequence& known = sequences[3];  // all target; random ids alone would hardly ever be the likeliest
    for (std::size_t t = 1; t < known.ids.size(); t += 2) {
        const std::vector<double> logp = rows_by_definition(model, known)[t - 1];
        known.ids[t] = static_cast<std::int32_t>(largest(logp) - logp.begin());
    }
    const auto scores = token_scores(model, sequences, true, 20);
    ASSERT_EQ(scores.size(), sequences.size());
    std::ptrdiff_t likeliest = 0;
    for (std::size_t b = 0; b < sequences.size(); ++b) {
        const auto rows = rows_by_definition(model, sequences[b]);
        const std::vector<double> own = by_definition(model, sequences[b]);
        ASSERT_EQ(scores[b].size(), rows.size());
        for (std::size_t i = 0; i < rows.size(); ++i) {
            double mean = 0.0;
            double variance = 0.0;
            for (const double logp : rows[i]) mean += std::exp(logp) * logp;
            for (const double logp : rows[i]) variance += std::exp(logp) * (logp - mean) * (logp - mean);
            EXPECT_NEAR(scores[b][i].logp, own[i], 1e-13);
            EXPECT_NEAR(scores[b][i].mean, mean, 1e-13);
            EXPECT_NEAR(scores[b][i].variance, variance, 1e-12);
            EXPECT_EQ(scores[b][i].likeliest, own[i] == *largest(rows[i]));
            likeliest += scores[b][i].likeliest ? 1 : 0;
        }
    }
    EXPECT_GE(likeliest, 2);
}

TEST_F(Logprobs, ACloseLookSeesTheSameLogProbabilitiesWhereRowsAreShared) {
    const Llama model = lively_model(small_config(), DType::f32);
    const std::vector<Sequence> sequences = answers_to_questions(model.config());
    const auto logp = token_logprobs(model, sequences);
    const auto scores = token_scores(model, sequences, true);
    const auto plain = token_scores(model, sequences, false);
    for (std::size_t b = 0; b < sequences.size(); ++b) {
        ASSERT_EQ(scores[b].size(), logp[b].size());
        for (std::size_t i = 0; i < logp[b].size(); ++i) {
            EXPECT_NEAR(scores[b][i].logp, logp[b][i], 2e-6 * std::abs(logp[b][i]) + 2e-6);
            EXPECT_EQ(plain[b][i], TokenScore{logp[b][i]});
        }
    }
}

TEST_F(Logprobs, OfSharedRowsHaveNoGradient) {
    const Llama model = lively_model(small_config(), DType::f32);
    EXPECT_SAYS(message_of<Error>([&] { model.logprob(pack_sharing(some_sequences(model.config()))); }), "no gradient");
}

TEST_F(Logprobs, ReportProgress) {
    const Llama model = lively_model(small_config(), DType::f32);
    const std::vector<Sequence> sequences = some_sequences(model.config());
    std::vector<std::size_t> done;
    token_logprobs(model, sequences, 20, [&](std::size_t n, std::size_t total) {
        done.push_back(n);
        EXPECT_EQ(total, sequences.size());
    });
    EXPECT_GT(done.size(), 3U);
    EXPECT_TRUE(std::is_sorted(done.begin(), done.end()));
    EXPECT_EQ(done.back(), sequences.size());
}

TEST_F(Logprobs, OfADivergedModelAreRefused) {
    const std::vector<Sequence> sequences = some_sequences(small_config());
    EXPECT_SAYS(message_of<Error>([&] { token_logprobs(diverged_model(), sequences); }), "diverged");
}

TEST_F(Logprobs, OfNothing) {
    const Llama model = lively_model(small_config(), DType::f32);
    EXPECT_TRUE(token_logprobs(model, {}).empty());
    const std::vector<Sequence> one_token = {{{1}, 1}};
    EXPECT_THROW(token_logprobs(model, one_token), Error);
}

}  // namespace
}  // namespace uipe::llama
