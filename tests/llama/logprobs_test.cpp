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

/// log softmax of every row's logits, at the next id.
std::vector<double> by_definition(const Llama& model, const Sequence& sequence) {
    const autograd::NoGrad guard;
    const Tensor hidden = model.hidden(pack({&sequence, 1})).value();
    const std::int64_t V = model.config().vocab_size;
    const Tensor logits = Tensor::empty({hidden.dim(0), V}, DType::f64);
    tensor::logits(logits, hidden, model.head().value());
    std::vector<double> out;
    for (auto t = static_cast<std::size_t>(sequence.first_target); t < sequence.ids.size(); ++t) {
        const double* row = logits.data<double>() + (static_cast<std::int64_t>(t) - 1) * V;
        double total = 0.0;
        for (std::int64_t v = 0; v < V; ++v) total += std::exp(row[v]);
        out.push_back(row[sequence.ids[t]] - std::log(total));
    }
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

TEST_F(Logprobs, OfNothing) {
    const Llama model = lively_model(small_config(), DType::f32);
    EXPECT_TRUE(token_logprobs(model, {}).empty());
    const std::vector<Sequence> one_token = {{{1}, 1}};
    EXPECT_THROW(token_logprobs(model, one_token), Error);
}

}  // namespace
}  // namespace uipe::llama
