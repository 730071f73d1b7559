// The model as a whole: its gradient by finite differences, and that neither recomputation, nor how a batch is cut, nor
// the element type changes what it says.
#include "llama/model.h"

#include <gtest/gtest.h>

#include "autograd/gradcheck.h"
#include "autograd/ops.h"
#include "tensor/allocator.h"
#include "tests/llama/models.h"

namespace uipe::llama {
namespace {

using tensor::DType;
using tensor::Tensor;
using test::apart;
using test::relative_distance;
using test::same_bits;

class Model : public ::testing::Test {
    const test::Threads one_{1};
};

/// Two layers of a few hundred numbers, so that every one of them can be tried.
Config tiny(std::int64_t H, std::int64_t K, std::int64_t D, bool tied) {
    Config c = small_config();
    c.hidden_size = 6;
    c.intermediate_size = 5;
    c.num_heads = H;
    c.num_kv_heads = K;
    c.head_dim = D;
    c.vocab_size = 11;
    c.tie_word_embeddings = tied;
    return c;
}

struct Case {
    const char* what;
    Config config;
};

std::vector<Case> cases() {
    return {{"grouped heads, H D = 8 beside C = 6", tiny(4, 2, 2, false)},
            {"one key head, D = 4", tiny(3, 1, 4, false)},
            {"tied, H = K", tiny(3, 3, 2, true)},
            {"tied, grouped, H D = 4 beside C = 6", tiny(2, 1, 2, true)}};
}

/// A model whose embeddings are of order 1: RMSNorm bends like the fifth power of their inverse, and the differences of
/// gradcheck are good to h^4 times that.
Llama smooth_model(const Config& config, std::uint64_t seed = 0) {
    const StateDict weights = lively_weights(config, DType::f64, seed);
    const Tensor table = weights.at("model.embed_tokens.weight");
    tensor::axpby(table, 4.0, table.clone(), 0.0);
    return {config, weights};
}

Batch batch_for(const Config& config) { return pack(random_sequences(config, {6, 2, 4})); }

TEST_F(Model, GradCheckOfLogprob) {
    for (const Case& c : cases())
        for (const char* recompute : recompute_modes) {
            Llama model = smooth_model(c.config);
            model.set_recompute(recompute_named(recompute));
            const Batch batch = batch_for(c.config);
            const auto check = autograd::gradcheck([&] { return model.logprob(batch); }, variables_of(model));
            EXPECT_LE(check.worst, 1e-8) << c.what << ", " << recompute << ": " << check.place;
        }
}

TEST_F(Model, GradCheckOfTokenKl) {
    for (const Case& c : cases()) {
        const Llama model = smooth_model(c.config);
        const Llama reference = smooth_model(c.config, 1);
        const Batch batch = batch_for(c.config);
        const Tensor hidden_ref = reference.hidden(batch).value();
        const auto kl = [&] {
            return autograd::token_kl(model.hidden(batch), model.head(), hidden_ref, reference.head().value());
        };
        for (const double v : test::doubles(kl().value())) EXPECT_GT(v, 0.0);
        const auto check = autograd::gradcheck(kl, variables_of(model));
        EXPECT_LE(check.worst, 1e-8) << c.what << ": " << check.place;
    }
}

TEST_F(Model, ParametersAreTheExpectedWeights) {
    for (const Case& c : cases()) {
        const StateDict weights = lively_weights(c.config, DType::f32);
        const Llama model(c.config, weights);
        std::map<std::string, tensor::Shape> shapes;
        for (const nn::Parameter& p : model.parameters()) shapes[p.name] = p.variable.value().shape();
        EXPECT_EQ(shapes, expected_weights(c.config));
        EXPECT_EQ(model.parameters().size(), shapes.size()) << "no name twice";
        for (const auto& [name, w] : model.weights()) EXPECT_EQ(w.raw(), weights.at(name).raw()) << name;
        EXPECT_EQ(model.dtype(), DType::f32);
        const bool reads_embedding = model.head().value().raw() == weights.at("model.embed_tokens.weight").raw();
        EXPECT_EQ(reads_embedding, c.config.tie_word_embeddings);
    }
}

TEST_F(Model, RefusesMissingAndMisshapenWeights) {
    const Config config = small_config();
    const StateDict good = lively_weights(config, DType::f32);
    for (const char* name : {"model.layers.1.mlp.up_proj.weight", "model.norm.weight", "lm_head.weight"}) {
        StateDict missing = good;
        missing.erase(name);
        EXPECT_SAYS(message_of<Error>([&] { Llama(config, missing); }), name);
        StateDict shape = good;
        shape[name] = test::normal({3, 2}, 1, 1.0, DType::f32);
        EXPECT_SAYS(message_of<Error>([&] { Llama(config, shape); }), "[3,2]");
    }
}

TEST_F(Model, FreshWeightsAreTheSameInEveryTypeButForRounding) {
    Config config = small_config();
    config.initializer_range = 0.1;
    const StateDict wide = random_weights(config, DType::f64, 3);
    for (const DType dtype : {DType::f32, DType::bf16})
        for (const auto& [name, w] : random_weights(config, dtype, 3))
            EXPECT_LE(apart(w, wide.at(name)), dtype == DType::f32 ? 6e-8 : 4e-3) << name;
    const auto& up = wide.at("model.layers.0.mlp.up_proj.weight");
    EXPECT_FALSE(same_bits(up, wide.at("model.layers.1.mlp.up_proj.weight")));
    EXPECT_FALSE(same_bits(up, random_weights(config, DType::f64, 4).at("model.layers.0.mlp.up_proj.weight")));
    // 384 draws: their standard deviation is 0.1 within 4 / sqrt(2 * 384).
    const Tensor& table = wide.at("model.embed_tokens.weight");
    EXPECT_NEAR(std::sqrt(tensor::sum_of_squares(table) / static_cast<double>(table.numel())), 0.1, 0.0145);
    EXPECT_EQ(test::doubles(wide.at("model.norm.weight")), std::vector<double>(12, 1.0));
}

TEST_F(Model, OwnWeightsAreACopy) {
    const StateDict weights = lively_weights(small_config(), DType::f32);
    for (const DType dtype : {DType::f32, DType::bf16, DType::f64})
        for (const auto& [name, w] : own_weights(weights, dtype)) {
            EXPECT_EQ(w.dtype(), dtype);
            EXPECT_NE(w.raw(), weights.at(name).raw());
            EXPECT_TRUE(same_bits(w, weights.at(name).to(dtype))) << name;
        }
}

std::vector<Tensor> gradients_of_mean_nll(const Llama& model, const std::vector<Batch>& batches) {
    double targets = 0.0;
    for (const Batch& batch : batches) targets += static_cast<double>(batch.num_targets);
    for (const Batch& batch : batches)
        autograd::backward(autograd::scale(autograd::sum(model.logprob(batch)), -1.0 / targets));
    std::vector<Tensor> out;
    for (const Variable& p : variables_of(model)) out.push_back(p.grad());
    return out;
}

TEST_F(Model, RecomputationGivesEqualBits) {
    for (const DType dtype : {DType::f64, DType::f32, DType::bf16})
        for (const Case& c : cases()) {
            const Batch batch = batch_for(c.config);
            Llama plain = lively_model(c.config, dtype);
            plain.set_recompute(Recompute::none);
            const std::vector<Tensor> expected = gradients_of_mean_nll(plain, {batch});
            for (const char* recompute : recompute_modes) {
                SCOPED_TRACE(cat(c.what, " in ", name_of(dtype), ", ", recompute));
                Llama again = lively_model(c.config, dtype);
                again.set_recompute(recompute_named(recompute));
                EXPECT_TRUE(same_bits(again.logprob(batch).value(), plain.logprob(batch).value()));
                const std::vector<Tensor> got = gradients_of_mean_nll(again, {batch});
                for (std::size_t i = 0; i < got.size(); ++i)
                    EXPECT_TRUE(same_bits(got[i], expected[i])) << "gradient " << i;
            }
        }
}

TEST_F(Model, RecomputationHasFourNames) {
    for (const char* name : {"", "Norm", "blocks", "true"})
        for (const char* known : recompute_modes)
            EXPECT_SAYS(message_of<InputError>([&] { recompute_named(name); }), known);
}

/// Numbers of the activations' type that the forward pass of a batch keeps for the backward pass, as the ops' capture
/// lists say. Of each layer: the stream before each norm, q and k turned, v, the heads' output, gate and up, and the
/// outputs of norms and SwiGLU; less what is recomputed. And the last norm, and the gradient by the logits. In the
/// accumulator's type: rstd of each norm, lse of each head.
struct Kept {
    double numbers, statistics;
};

Kept kept_of(const Config& c, std::int64_t T, std::int64_t targets, Recompute recompute) {
    const auto count = [](std::int64_t n) { return static_cast<double>(n); };
    const std::int64_t C = c.hidden_size;
    const std::int64_t F = c.intermediate_size;
    const std::int64_t heads = 2 * (c.num_heads + c.num_kv_heads) * c.head_dim;
    const std::int64_t layers[] = {4 * C + heads + 3 * F, 2 * C + heads + 2 * F, 2 * C + heads, C};
    const std::int64_t statistics[] = {c.num_heads + 2, c.num_heads + 2, c.num_heads + 1, 0};
    const auto mode = static_cast<std::size_t>(recompute);
    const std::int64_t last = recompute == Recompute::none ? 2 * C : C;
    return {count(T * (c.num_layers * layers[mode] + last) + targets * c.vocab_size),
            count(T * (c.num_layers * statistics[mode] + 1))};
}

void expect_kept(const Config& config, const Batch& batch, DType dtype, Recompute recompute) {
    Llama model = lively_model(config, dtype);
    model.set_recompute(recompute);
    const auto in_use = [] { return static_cast<double>(tensor::memory_stats().in_use); };
    const double before = in_use();
    autograd::Variable loss = autograd::sum(model.logprob(batch));
    const Kept kept = kept_of(config, batch.T, batch.num_targets, recompute);
    const double bytes = kept.numbers * static_cast<double>(tensor::size_of(dtype)) +
                         kept.statistics * static_cast<double>(tensor::size_of(tensor::accumulator_of(dtype)));
    EXPECT_NEAR(in_use() - before, bytes, 0.01 * bytes);
    double gradients = 0.0;
    autograd::backward(loss);
    for (const nn::Parameter& p : model.parameters()) gradients += static_cast<double>(p.variable.grad().nbytes());
    EXPECT_NEAR(in_use() - before, gradients, 0.01 * bytes);
}

TEST_F(Model, AForwardPassKeepsWhatTheOpsListAndTheBackwardPassLetsItGo) {
    Config config = small_config();
    config.hidden_size = 64;
    config.intermediate_size = 96;
    config.num_layers = 3;
    config.head_dim = 16;
    config.max_position_embeddings = 2048;
    const Batch batch = pack(random_sequences(config, {1500, 700}));
    for (const DType dtype : {DType::f64, DType::f32, DType::bf16})
        for (const char* recompute : recompute_modes) {
            SCOPED_TRACE(cat(name_of(dtype), ", ", recompute));
            expect_kept(config, batch, dtype, recompute_named(recompute));
        }
}

TEST_F(Model, EachModeOfRecomputationPeaksLowerThanTheOneBefore) {
    Config config = small_config();
    config.num_layers = 8;
    config.max_position_embeddings = 2048;
    const Batch batch = pack(random_sequences(config, {1500}));
    std::vector<double> peaks;
    for (const char* recompute : recompute_modes) {
        Llama model = lively_model(config, DType::f32);
        model.set_recompute(recompute_named(recompute));
        gradients_of_mean_nll(model, {batch});  // the gradients of parameters are there from now on
        const std::size_t before = tensor::memory_stats().in_use;
        tensor::reset_peak();
        gradients_of_mean_nll(model, {batch});
        peaks.push_back(static_cast<double>(tensor::memory_stats().peak - before));
    }
    for (std::size_t i = 1; i < peaks.size(); ++i) EXPECT_LE(peaks[i], 0.9 * peaks[i - 1]) << recompute_modes[i];
    EXPECT_LE(peaks[3], 0.4 * peaks[1]);  // one block at a time
}

struct Cut {
    Batch whole;
    std::vector<Batch> parts;
};

Cut eight_sequences(const Config& config) {
    const std::vector<Sequence> sequences = random_sequences(config, {9, 2, 31, 5, 17, 3, 12, 24});
    Cut out{pack(sequences), {}};
    for (const Sequence& s : sequences) out.parts.push_back(pack({&s, 1}));
    return out;
}

TEST_F(Model, OneBatchOfEightEqualsEightOfOne) {
    const Config config = small_config();
    const Cut cut = eight_sequences(config);
    for (const auto& [dtype, tolerance] : {std::pair{DType::f64, 1e-14}, std::pair{DType::f32, 2e-6}}) {
        const Llama model = lively_model(config, dtype);
        const Tensor whole = model.logprob(cut.whole).value();
        std::int64_t from = 0;
        for (const Batch& part : cut.parts) {
            EXPECT_LE(apart(model.logprob(part).value(), whole.rows(from, from + part.T)), tolerance);
            from += part.T;
        }
        const std::vector<Tensor> together = gradients_of_mean_nll(model, {cut.whole});
        const Llama twin = lively_model(config, dtype);
        const std::vector<Tensor> apart_ = gradients_of_mean_nll(twin, cut.parts);
        for (std::size_t i = 0; i < together.size(); ++i)
            EXPECT_LE(relative_distance(apart_[i], together[i]), tolerance / 2) << "gradient " << i;
    }
}

TEST_F(Model, TheOrderOfSequencesDoesNotMatter) {
    const Config config = small_config();
    const Llama model = lively_model(config, DType::f64);
    std::vector<Sequence> sequences = random_sequences(config, {9, 2, 31});
    const Tensor before = model.logprob(pack(sequences)).value();
    std::swap(sequences[0], sequences[2]);
    const Tensor after = model.logprob(pack(sequences)).value();
    EXPECT_LE(apart(after.rows(0, 30), before.rows(9, 39)), 1e-14);
    EXPECT_LE(apart(after.rows(31, 39), before.rows(0, 8)), 1e-14);
}

TEST_F(Model, EveryNumberOfThreadsGivesEqualBits) {
    Config config = small_config();
    config.max_position_embeddings = 2048;
    config.vocab_size = 300;
    const Batch batch = pack(random_sequences(config, {200, 3, 77, 130, 64}));
    for (const DType dtype : {DType::f32, DType::bf16}) {
        std::vector<std::vector<Tensor>> gradients;
        for (const int threads : {1, 2, 3}) {
            const test::Threads guard(threads);
            gradients.push_back(gradients_of_mean_nll(lively_model(config, dtype), {batch}));
        }
        for (std::size_t i = 0; i < gradients[0].size(); ++i)
            for (const std::size_t run : {1, 2})
                EXPECT_TRUE(same_bits(gradients[run][i], gradients[0][i])) << name_of(dtype) << ", gradient " << i;
    }
}

TEST_F(Model, Bf16IsNearF64) {
    const Config config = small_config();
    const Batch batch = eight_sequences(config).whole;
    const StateDict narrow = lively_weights(config, DType::bf16, 0, 0.2);
    const Llama model(config, narrow);
    const Llama exact(config, own_weights(narrow, DType::f64));
    const Tensor logp = model.logprob(batch).value();
    EXPECT_EQ(logp.dtype(), DType::f32);
    // Some ten roundings of activations at 2^-9 relative each, on logits of order 1, give errors of about 1e-2.
    const std::vector<double> p = test::doubles(logp);
    const std::vector<double> q = test::doubles(exact.logprob(batch).value());
    double squares = 0.0;
    for (std::size_t i = 0; i < p.size(); ++i) squares += (p[i] - q[i]) * (p[i] - q[i]);
    EXPECT_LE(std::sqrt(squares / static_cast<double>(batch.num_targets)), 0.02);
    const std::vector<Tensor> got = gradients_of_mean_nll(model, {batch});
    const std::vector<Tensor> expected = gradients_of_mean_nll(exact, {batch});
    for (std::size_t i = 0; i < got.size(); ++i) {
        EXPECT_EQ(got[i].dtype(), DType::f32);
        EXPECT_LE(relative_distance(got[i], expected[i]), 0.08) << "gradient " << i;
    }
}

}  // namespace
}  // namespace uipe::llama
