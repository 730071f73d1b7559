// Generation on the device.
#include "llama/generate.h"
#include "llama/llama2c.h"
#include "llama/logprobs.h"
#include "llama/tokenizer.h"
#include "tests/cuda/cuda_test.h"
#include "tests/llama/models.h"

namespace uipe::llama {
namespace {

using tensor::DType;
using Ids = std::vector<std::int32_t>;
using CudaGenerate = tensor::test::Cuda;

std::vector<Ids> prompts() {
    std::vector<Ids> out;
    for (const Sequence& s : random_sequences(small_config(), {2, 9, 5, 17})) out.push_back(s.ids);
    return out;
}

TEST_F(CudaGenerate, GreedyAndSampledTokensAreTheCpus) {
    const Llama here = lively_model(small_config(), DType::f32);
    const Llama there(small_config(), own_weights(here.weights(), DType::f32, cuda()));
    GenerateOptions options{.max_new_tokens = 12, .batch_size = 3, .stop_at_eos = false};
    EXPECT_EQ(generate(there, prompts(), options), generate(here, prompts(), options));
    options.temperature = 0.8;
    options.top_k = 5;
    EXPECT_EQ(generate(there, prompts(), options), generate(here, prompts(), options));
}

TEST_F(CudaGenerate, LogProbabilitiesAreTheCpus) {
    const Llama here = lively_model(small_config(), DType::f32);
    const Llama there(small_config(), own_weights(here.weights(), DType::f32, cuda()));
    // Neighbours that begin alike share rows: the path that gathers keys.
    std::vector<Sequence> sequences = random_sequences(small_config(), {9, 9, 21, 4});
    sequences[1].ids = sequences[0].ids;
    sequences[1].ids.back() ^= 1;
    sequences[1].first_target = sequences[0].first_target;
    const auto want = token_logprobs(here, sequences);
    const auto got = token_logprobs(there, sequences);
    ASSERT_EQ(got.size(), want.size());
    for (std::size_t i = 0; i < want.size(); ++i) {
        ASSERT_EQ(got[i].size(), want[i].size());
        for (std::size_t t = 0; t < want[i].size(); ++t)  // a few hundred eps of f32
            EXPECT_NEAR(got[i][t], want[i][t], 2e-5 * std::max(1.0, std::abs(want[i][t])));
    }
    const auto seen_here = token_scores(here, sequences, true);
    const auto seen_there = token_scores(there, sequences, true);
    for (std::size_t i = 0; i < want.size(); ++i) {
        ASSERT_EQ(seen_there[i].size(), want[i].size());
        for (std::size_t t = 0; t < want[i].size(); ++t) {
            const TokenScore &a = seen_there[i][t], &b = seen_here[i][t];
            EXPECT_NEAR(a.logp, want[i][t], 2e-5 * std::max(1.0, std::abs(want[i][t])));
            EXPECT_NEAR(a.mean, b.mean, 2e-5 * std::max(1.0, std::abs(b.mean)));
            EXPECT_NEAR(a.variance, b.variance, 2e-5 * std::max(1.0, b.mean * b.mean + b.variance));
            EXPECT_EQ(a.likeliest, b.likeliest);
        }
    }
}

TEST_F(CudaGenerate, Stories260KGivesTheTextOfLlama2c) {
    const auto data = real_data();
    if (!data) GTEST_SKIP() << "UIPE_DATA is not set; it names the folder with stories260K";
    const fs::path folder = *data / "stories260K";
    const Llama2cModel file = read_llama2c(folder / "stories260K.bin");
    const Tokenizer tokenizer = Tokenizer::load(folder / "tok512.model");
    const Llama model(file.config, own_weights(file.weights, DType::f32, cuda()));
    const std::vector<Ids> prompt = {{tokenizer.bos_id()}};
    const Ids ids = generate(model, prompt, {.max_new_tokens = 200}).front();
    EXPECT_EQ(ids.size(), 200U);
    EXPECT_EQ(tokenizer.decode(ids), read_file(folder / "expected_greedy_n200.txt"));
}

}  // namespace
}  // namespace uipe::llama
