// Generation: a cache changes nothing, sampling follows the distribution, limits and ends hold.
#include "llama/generate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <tuple>

#include "llama/llama2c.h"
#include "llama/tokenizer.h"
#include "tests/llama/models.h"

namespace uipe::llama {
namespace {

using tensor::DType;
using tensor::Tensor;
using Ids = std::vector<std::int32_t>;

class Generate : public ::testing::Test {
    const test::Threads one_{1};
};

/// The logits after `ids`, without a cache.
std::vector<double> logits_after(const Llama& model, Ids ids) {
    const autograd::NoGrad guard;
    const auto n = static_cast<std::int64_t>(ids.size());
    ids.push_back(0);  // pack() feeds all but the last
    const std::vector<Sequence> sequence = {{ids, 1}};
    const Tensor hidden = model.hidden(pack(sequence)).value();
    const Tensor out = Tensor::empty({1, model.config().vocab_size}, tensor::accumulator_of(model.dtype()));
    tensor::logits(out, hidden.rows(n - 1, n), model.head().value());
    return test::doubles(out);
}

/// `n` greedy tokens, each from a forward pass over everything before it.
Ids greedy_without_cache(const Llama& model, const Ids& prompt, std::int64_t n) {
    Ids all = prompt;
    for (std::int64_t i = 0; i < n; ++i) {
        const std::vector<double> logits = logits_after(model, all);
        all.push_back(static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
    }
    return {all.begin() + static_cast<std::ptrdiff_t>(prompt.size()), all.end()};
}

std::vector<Ids> prompts_of(const Config& config, const std::vector<std::int64_t>& lengths) {
    std::vector<Ids> out;
    for (const Sequence& s : random_sequences(config, lengths)) out.push_back(s.ids);
    return out;
}

const std::vector<std::int64_t> unequal = {2, 9, 2, 5, 17, 3, 4};

TEST_F(Generate, GreedyEqualsForwardPassesWithoutCache) {
    for (const DType dtype : {DType::f64, DType::f32}) {
        const Llama model = lively_model(small_config(), dtype);
        std::vector<Ids> prompts = prompts_of(model.config(), unequal);
        prompts.push_back({1});  // BOS alone
        std::vector<Ids> expected;
        for (const Ids& prompt : prompts) expected.push_back(greedy_without_cache(model, prompt, 20));
        GenerateOptions options{.max_new_tokens = 20, .stop_at_eos = false};
        for (const std::int64_t batch_size : {128, 3, 1}) {
            options.batch_size = batch_size;
            EXPECT_EQ(generate(model, prompts, options), expected) << name_of(dtype) << ", batch " << batch_size;
        }
        for (std::size_t i = 0; i < prompts.size(); ++i)
            EXPECT_EQ(generate(model, {&prompts[i], 1}, options).front(), expected[i]);
    }
}

TEST_F(Generate, RunsInBf16) {
    const Llama model = lively_model(small_config(), DType::bf16);
    const std::vector<Ids> prompts = prompts_of(model.config(), unequal);
    GenerateOptions options{.max_new_tokens = 10, .stop_at_eos = false};
    const std::vector<Ids> together = generate(model, prompts, options);
    for (const Ids& ids : together) EXPECT_EQ(ids.size(), 10U);
    EXPECT_EQ(generate(model, prompts, options), together);
}

// --- Ends and limits
// ---------------------------------------------------------------------------------------------------

/// Seven tokens only, so that some rows meet one soon.
Config few_tokens() {
    Config c = small_config();
    c.vocab_size = 7;
    return c;
}

TEST_F(Generate, EosEndsARowAndTheOthersGoOn) {
    Config config = few_tokens();
    const Llama endless = lively_model(config, DType::f64);
    const std::vector<Ids> prompts = prompts_of(config, unequal);
    const std::vector<Ids> whole = generate(endless, prompts, {.max_new_tokens = 12, .stop_at_eos = false});
    for (const Ids& ends : {Ids{2}, Ids{4, 2}, Ids{0, 3, 5}}) {
        config.eos_token_ids = ends;
        const Llama model = lively_model(config, DType::f64);
        std::vector<Ids> expected;
        std::size_t ended = 0;
        for (const Ids& ids : whole) {
            const auto end = std::find_first_of(ids.begin(), ids.end(), ends.begin(), ends.end());
            expected.emplace_back(ids.begin(), end);
            ended += end == ids.end() ? 0 : 1;
        }
        ASSERT_GT(ended, 0U) << "the case must be met";
        for (const std::int64_t batch_size : {128, 2})
            EXPECT_EQ(generate(model, prompts, {.max_new_tokens = 12, .batch_size = batch_size}), expected);
    }
    // Some row outlives another under at least one of these, or nothing was shown.
    config.eos_token_ids = {2};
    std::vector<std::size_t> lengths;
    for (const Ids& ids : generate(lively_model(config, DType::f64), prompts, {.max_new_tokens = 12}))
        lengths.push_back(ids.size());
    EXPECT_NE(*std::min_element(lengths.begin(), lengths.end()), *std::max_element(lengths.begin(), lengths.end()));
}

TEST_F(Generate, OnTokenSeesEveryNewToken) {
    Config config = few_tokens();
    const Llama model = lively_model(config, DType::f64);
    const std::vector<Ids> prompts = prompts_of(config, unequal);
    std::vector<Ids> seen(prompts.size());
    GenerateOptions options{.max_new_tokens = 12, .batch_size = 3};
    options.on_token = [&](std::size_t prompt, std::int32_t id) { seen[prompt].push_back(id); };
    EXPECT_EQ(generate(model, prompts, options), seen);
}

TEST_F(Generate, RowsThatJoinLateGetTheTextTheyGetAlone) {
    Config config = few_tokens();
    config.eos_token_ids = {2};
    for (const DType dtype : {DType::f64, DType::f32}) {
        const Llama model = lively_model(config, dtype);
        const std::vector<Ids> prompts = prompts_of(config, {2, 9, 2, 5, 17, 3, 4, 12, 30, 7, 2, 21, 6});
        GenerateOptions options{.max_new_tokens = 30, .max_length = 40};
        std::vector<Ids> expected;
        for (const Ids& prompt : prompts) expected.push_back(generate(model, {&prompt, 1}, options).front());
        for (const std::int64_t batch_size : {2, 3, 5, 8, 13}) {
            options.batch_size = batch_size;
            EXPECT_EQ(generate(model, prompts, options), expected) << name_of(dtype) << ", batch " << batch_size;
        }
    }
}

TEST_F(Generate, APromptThatWaitsTakesTheFirstFreePlace) {
    const Llama model = lively_model(small_config(), DType::f32);
    const std::vector<Ids> prompts = prompts_of(model.config(), {4, 18, 4});
    std::vector<std::size_t> order;
    GenerateOptions options{.max_new_tokens = 16, .max_length = 20, .batch_size = 2, .stop_at_eos = false};
    options.on_token = [&](std::size_t prompt, std::int32_t) { order.push_back(prompt); };
    const std::vector<Ids> ids = generate(model, prompts, options);
    EXPECT_EQ(ids[0].size(), 16U);
    EXPECT_EQ(ids[1].size(), 2U) << "the second ends soon";
    EXPECT_EQ(ids[2].size(), 16U);
    const auto third = std::find(order.begin(), order.end(), 2U);
    EXPECT_EQ(third - order.begin(), 4) << "the third starts when the second has ended";
    EXPECT_EQ(order.back(), 2U);
}

TEST_F(Generate, ReportsProgress) {
    Config config = few_tokens();
    config.eos_token_ids = {2};
    const Llama model = lively_model(config, DType::f64);
    const std::vector<Ids> prompts = prompts_of(config, unequal);
    std::vector<std::size_t> ended;
    GenerateOptions options{.max_new_tokens = 12, .batch_size = 3};
    options.progress = [&](std::size_t n, std::size_t total) {
        ended.push_back(n);
        EXPECT_EQ(total, prompts.size());
    };
    generate(model, prompts, options);
    EXPECT_GT(ended.size(), 2U);
    EXPECT_TRUE(std::is_sorted(ended.begin(), ended.end()));
    EXPECT_EQ(ended.back(), prompts.size());
}

TEST_F(Generate, TiesGoToTheLowerId) {
    Config config = small_config();
    config.vocab_size = 3000;  // more than the blocks in which the likeliest is sought
    StateDict weights = lively_weights(config, DType::f32);
    const Tensor head = weights.at("lm_head.weight");
    const Llama model(config, weights);
    const std::vector<Ids> prompt = prompts_of(config, {5});
    const auto first = [&] {
        return generate(model, prompt, {.max_new_tokens = 1, .stop_at_eos = false}).front().front();
    };
    const auto set = [&](std::int32_t id, const Tensor& row) { tensor::copy(head.rows(id, id + 1), row); };
    const std::int32_t before = first();
    const Tensor best = head.rows(before, before + 1).clone();
    set(before, Tensor::zeros(best.shape(), DType::f32));
    for (const std::int32_t lower : {2500, 2048, 2047, 1024, 1023, 1, 0}) {
        set(lower, best);
        EXPECT_EQ(first(), lower);
    }
}

TEST_F(Generate, Limits) {
    const Llama model = lively_model(small_config(), DType::f32);  // 64 positions
    const std::vector<Ids> prompts = prompts_of(model.config(), {5, 60, 64});
    const auto lengths = [&](std::size_t first, std::size_t n, const GenerateOptions& options) {
        std::vector<std::size_t> out;
        for (const Ids& ids : generate(model, std::span(prompts).subspan(first, n), options)) out.push_back(ids.size());
        return out;
    };
    using Lengths = std::vector<std::size_t>;
    EXPECT_EQ(lengths(0, 3, {.max_new_tokens = 0, .stop_at_eos = false}), (Lengths{0, 0, 0}));
    EXPECT_EQ(lengths(0, 2, {.max_new_tokens = 1, .stop_at_eos = false}), (Lengths{1, 1}));
    EXPECT_EQ(lengths(0, 2, {.max_new_tokens = 10, .stop_at_eos = false}), (Lengths{10, 4})) << "64 positions";
    EXPECT_EQ(lengths(0, 1, {.max_new_tokens = 10, .max_length = 8, .stop_at_eos = false}), (Lengths{3}));
    EXPECT_EQ(lengths(0, 1, {.max_new_tokens = 10, .max_length = 6, .stop_at_eos = false}), (Lengths{1}));
    EXPECT_EQ(lengths(0, 1, {.max_new_tokens = 99, .max_length = 9999, .stop_at_eos = false}), (Lengths{59}));
    EXPECT_EQ(lengths(0, 0, {}), Lengths{});
}

TEST_F(Generate, APromptWithoutRoomIsRefused) {
    const Llama model = lively_model(small_config(), DType::f32);
    const auto refusal = [&](const std::vector<Ids>& prompts, const GenerateOptions& options) {
        return message_of([&] { generate(model, prompts, options); });
    };
    const Ids full(64, 1);
    EXPECT_SAYS(refusal({{1, 3}, full}, {}), "prompt 1 has 64 tokens");
    EXPECT_SAYS(refusal({Ids(65, 1)}, {}), "65");
    EXPECT_SAYS(refusal({Ids(8, 1)}, {.max_length = 8}), "8");
    EXPECT_SAYS(refusal({{1}, {}}, {}), "prompt 1 is empty");
    EXPECT_THROW(generate(model, std::vector<Ids>{{1, 32}}, {}), Error) << "an id outside the vocabulary";
}

TEST_F(Generate, ADivergedModelIsRefused) {
    for (const double temperature : {0.0, 1.0})
        EXPECT_SAYS(message_of<Error>([&] {
                        generate(diverged_model(), std::vector<Ids>{{1, 3}}, {.temperature = temperature});
                    }),
                    "diverged");
}

// --- Sampling
// ----------------------------------------------------------------------------------------------------------

TEST_F(Generate, SamplingDependsOnTheSeedAlone) {
    const Llama model = lively_model(small_config(), DType::f64);
    const std::vector<Ids> prompts = prompts_of(model.config(), unequal);
    GenerateOptions options{.max_new_tokens = 16, .temperature = 1.0, .seed = 1, .stop_at_eos = false};
    const std::vector<Ids> first = generate(model, prompts, options);
    EXPECT_EQ(generate(model, prompts, options), first);
    options.batch_size = 2;
    EXPECT_EQ(generate(model, prompts, options), first) << "in batches of two";
    options.seed = 2;
    EXPECT_NE(generate(model, prompts, options), first);
}

TEST_F(Generate, EqualPromptsDrawApart) {
    const Llama model = lively_model(small_config(), DType::f64);
    const std::vector<Ids> two = generate(model, std::vector<Ids>{{1, 5}, {1, 5}},
                                          {.max_new_tokens = 16, .temperature = 1.0, .stop_at_eos = false});
    EXPECT_NE(two[0], two[1]);
}

TEST_F(Generate, LimitsOfSamplingAreGreedy) {
    const Llama model = lively_model(small_config(), DType::f64);
    const std::vector<Ids> prompts = prompts_of(model.config(), unequal);
    const auto with = [&](double temperature, std::int64_t top_k, double top_p) {
        return generate(model, prompts,
                        {.max_new_tokens = 16,
                         .temperature = temperature,
                         .top_p = top_p,
                         .top_k = top_k,
                         .seed = 3,
                         .stop_at_eos = false});
    };
    const std::vector<Ids> greedy = with(0.0, 0, 1.0);
    EXPECT_EQ(with(1e-6, 0, 1.0), greedy) << "temperature to 0";
    EXPECT_EQ(with(1.0, 1, 1.0), greedy) << "top_k 1";
    EXPECT_EQ(with(1.0, 0, 1e-9), greedy) << "top_p to 0";
    EXPECT_NE(with(1.0, 0, 1.0), greedy);
}

/// How often each token follows one prompt, of 4000 draws.
std::vector<double> frequencies(const Llama& model, const Ids& prompt, GenerateOptions options) {
    constexpr std::size_t draws = 4000;
    options.max_new_tokens = 1;
    options.stop_at_eos = false;
    std::vector<double> out(static_cast<std::size_t>(model.config().vocab_size), 0.0);
    for (const Ids& ids : generate(model, std::vector<Ids>(draws, prompt), options))
        out[static_cast<std::size_t>(ids.at(0))] += 1.0 / draws;
    return out;
}

/// softmax(logits / temperature), cut to what is kept: the likeliest top_k, then the fewest that reach top_p.
std::vector<double> distribution(const std::vector<double>& logits, const GenerateOptions& o) {
    std::vector<std::pair<double, std::size_t>> p;
    double total = 0.0;
    for (std::size_t v = 0; v < logits.size(); ++v) p.emplace_back(std::exp(logits[v] / o.temperature), v);
    std::sort(p.rbegin(), p.rend());
    if (o.top_k > 0) p.resize(static_cast<std::size_t>(o.top_k));
    for (const auto& [weight, v] : p) total += weight;
    std::vector<double> out(logits.size(), 0.0);
    double before = 0.0;
    for (const auto& [weight, v] : p) {
        if (before < o.top_p) out[v] = weight / total;
        before += weight / total;
    }
    const double kept = std::accumulate(out.begin(), out.end(), 0.0);
    for (double& x : out) x /= kept;
    return out;
}

TEST_F(Generate, SamplesFollowTheDistribution) {
    const Llama model = lively_model(few_tokens(), DType::f64);
    const Ids prompt = {1, 5, 3};
    const std::vector<double> logits = logits_after(model, prompt);
    for (const auto& [temperature, top_k, top_p] :
         {std::tuple{1.0, 0, 1.0}, std::tuple{2.5, 0, 1.0}, std::tuple{0.5, 0, 1.0}, std::tuple{2.0, 3, 1.0},
          std::tuple{2.0, 0, 0.7}, std::tuple{2.0, 4, 0.8}, std::tuple{1.0, 100, 1.0}}) {
        GenerateOptions options;
        options.temperature = temperature;
        options.top_k = top_k;
        options.top_p = top_p;
        const std::vector<double> got = frequencies(model, prompt, options);
        if (top_k > 7) options.top_k = 7;
        const std::vector<double> expected = distribution(logits, options);
        for (std::size_t v = 0; v < expected.size(); ++v) {
            const double deviation = std::sqrt(expected[v] * (1.0 - expected[v]) / 4000.0);
            EXPECT_NEAR(got[v], expected[v], 4.5 * deviation)  // and exactly 0 where it is cut
                << "token " << v << ", temperature " << temperature << ", top_k " << top_k << ", top_p " << top_p;
        }
    }
}

// --- A real model
// ------------------------------------------------------------------------------------------------------

TEST_F(Generate, Stories260KGivesTheTextOfLlama2c) {
    const auto data = real_data();
    if (!data) GTEST_SKIP() << "UIPE_DATA is not set; it names the folder with stories260K";
    const fs::path folder = *data / "stories260K";
    const Llama2cModel file = read_llama2c(folder / "stories260K.bin");
    const Tokenizer tokenizer = Tokenizer::load(folder / "tok512.model");
    std::string expected = read_file(folder / "expected_greedy_n200.txt");
    for (const DType dtype : {DType::f32, DType::f64}) {
        const Llama model(file.config, own_weights(file.weights, dtype));
        const std::vector<Ids> prompt = {{tokenizer.bos_id()}};
        const Ids ids = generate(model, prompt, {.max_new_tokens = 200}).front();
        EXPECT_EQ(ids.size(), 200U);
        EXPECT_EQ(tokenizer.decode(ids), expected) << name_of(dtype);
    }
}

}  // namespace
}  // namespace uipe::llama
