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
