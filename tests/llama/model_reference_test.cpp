// The model and AdamW against PyTorch's numbers (tests/fixtures/README.md says how they were made, and how near two
// implementations come).
#include <gtest/gtest.h>

#include "autograd/ops.h"
#include "llama/weights.h"
#include "nn/optimizer.h"
#include "tensor/base/json.h"
#include "tests/llama/models.h"

namespace uipe::llama {
namespace {

using tensor::DType;
using tensor::Tensor;

const fs::path fixtures = FIXTURES;

Llama load(const std::string& name, DType dtype) {
    const fs::path folder = fixtures / "llama" / name;
    const Config config = read_config(folder);
    return {config, own_weights(read_weights(folder, config), dtype)};
}

std::vector<Sequence> sequences_of(const Json& json) {
    std::vector<Sequence> out;
    for (const Json& s : json)
        out.push_back({s["ids"].get<std::vector<std::int32_t>>(), s["first_target"].get<std::int64_t>()});
    return out;
}

/// The mean NLL of a batch, and its gradient in the parameters.
double mean_nll(const Llama& model, const Batch& batch) {
    const Variable loss =
        autograd::scale(autograd::sum(model.logprob(batch)), -1.0 / static_cast<double>(batch.num_targets));
    autograd::backward(loss);
    return loss.value().item();
}

/// A tensor against its summary: norm, sum and three elements.
void expect_summary(const Tensor& x, const Json& summary, double tolerance, const std::string& name) {
    const std::vector<double> v = test::doubles(x);
    const double norm = summary["norm"];
    EXPECT_NEAR(std::sqrt(tensor::sum_of_squares(x)), norm, tolerance * norm) << name;
    double sum = 0.0;
    for (const double e : v) sum += e;
    EXPECT_NEAR(sum, summary["sum"].get<double>(), tolerance * norm * std::sqrt(static_cast<double>(v.size()))) << name;
    for (const Json& sample : summary["samples"])
        EXPECT_NEAR(v.at(sample[0].get<std::size_t>()), sample[1].get<double>(), tolerance * norm)
            << name << " element " << sample[0];
}

struct Tolerance {
    DType dtype;
    double logit, logprob, loss, gradient;
};
// The table of the README: what f64 and f32 may be off by. f32: about ten times what two PyTorch programs differ by.
constexpr Tolerance tolerances[] = {{DType::f64, 1e-11, 1e-11, 1e-12, 1e-10}, {DType::f32, 5e-5, 3e-5, 2e-5, 5e-5}};

class Reference : public ::testing::TestWithParam<const char*> {
    const test::Threads one_{1};
};

TEST_P(Reference, LogProbabilities) {
    const Json reference = read_json(fixtures / "llama" / GetParam() / "reference.json");
    const std::vector<Sequence> sequences = sequences_of(reference["sequences"]);
    const Batch batch = pack(sequences);
    for (const Tolerance& t : tolerances) {
        const std::vector<double> logp = test::doubles(load(GetParam(), t.dtype).logprob(batch).value());
        std::size_t row = 0;
        for (std::size_t b = 0; b < sequences.size(); ++b)
            for (std::size_t i = 1; i < sequences[b].ids.size(); ++i, ++row) {
                const auto first = static_cast<std::size_t>(sequences[b].first_target);
                const double expected = i < first ? 0.0 : reference["logprobs"][b].at(i - first).get<double>();
                EXPECT_NEAR(logp[row], expected, t.logprob) << "sequence " << b << " token " << i;
            }
        EXPECT_EQ(row, logp.size());
    }
}

TEST_P(Reference, LastLogits) {
    const Json reference = read_json(fixtures / "llama" / GetParam() / "reference.json");
    std::vector<Sequence> sequences = sequences_of(reference["sequences"]);
    for (Sequence& s : sequences) s.ids.push_back(0);  // pack() feeds all but the last
    const Batch batch = pack(sequences);
    for (const Tolerance& t : tolerances) {
        const Llama model = load(GetParam(), t.dtype);
        const Tensor hidden = model.hidden(batch).value();
        for (std::size_t b = 0; b < sequences.size(); ++b) {
            const std::int64_t last = batch.cu_seqlens.data<std::int32_t>()[b + 1] - 1;
            const Tensor logits = Tensor::empty({1, model.config().vocab_size}, t.dtype);
            tensor::logits(logits, hidden.rows(last, last + 1), model.head().value());
            const std::vector<double> got = test::doubles(logits);
            ASSERT_EQ(got.size(), reference["last_logits"][b].size());
            for (std::size_t v = 0; v < got.size(); ++v)
                EXPECT_NEAR(got[v], reference["last_logits"][b][v].get<double>(), t.logit) << b << " " << v;
        }
    }
}

TEST_P(Reference, LossAndGradients) {
    const Json reference = read_json(fixtures / "llama" / GetParam() / "reference.json");
    const Batch batch = pack(sequences_of(reference["sequences"]));
    for (const Tolerance& t : tolerances)
        for (const bool recompute : {false, true}) {
            Llama model = load(GetParam(), t.dtype);
            model.set_recompute(recompute);
            EXPECT_NEAR(mean_nll(model, batch), reference["mean_nll"].get<double>(), t.loss);
            const nn::Parameters parameters = model.parameters();
            EXPECT_EQ(parameters.size(), reference["grad_norms"].size());
            for (const nn::Parameter& p : parameters)
                expect_summary(p.variable.grad(), reference["grad_norms"].at(p.name), t.gradient, p.name);
        }
}

INSTANTIATE_TEST_SUITE_P(Fixtures, Reference, ::testing::Values("grouped", "tied", "headdim"),
                         [](const auto& test) { return std::string(test.param); });

// --- Training
// ----------------------------------------------------------------------------------------------------------

void expect_training(DType dtype, const char* suffix, double loss, double norm, double weights) {
    const Json fixture = read_json(fixtures / "adamw.json");
    const Json& settings = fixture["settings"];
    const Llama model = load("grouped", dtype);
    nn::AdamW optimizer(model.parameters(), {.beta1 = settings["beta1"],
                                             .beta2 = settings["beta2"],
                                             .eps = settings["eps"],
                                             .weight_decay = settings["weight_decay"],
                                             .decay_vectors = true});
    const std::int64_t steps = settings["steps"];
    for (std::int64_t k = 0; k < steps; ++k) {
        const auto i = static_cast<std::size_t>(k);
        const double expected = fixture[cat("loss_", suffix)][i];
        EXPECT_NEAR(mean_nll(model, pack(sequences_of(fixture["batches"][i]))), expected, loss * expected) << k;
        const double grad_norm = nn::global_grad_norm(model.parameters());
        const double expected_norm = fixture[cat("grad_norm_", suffix)][i];
        EXPECT_NEAR(grad_norm, expected_norm, norm * expected_norm) << k;
        const double factor = nn::schedule_factor(nn::Schedule::linear, k, settings["warmup_steps"], steps);
        EXPECT_DOUBLE_EQ(factor, fixture["multiplier"][i].get<double>()) << k;
        optimizer.step(settings["lr"].get<double>() * factor, nn::clip_scale(grad_norm, settings["max_grad_norm"]));
    }
    for (const auto& [name, w] : model.weights())
        expect_summary(w, fixture[cat("final_", suffix)].at(name), weights, name);
}

TEST(Training, TwentyStepsOfAdamW) {
    const test::Threads one(1);
    expect_training(DType::f64, "f64", 1e-9, 1e-9, 1e-9);
    expect_training(DType::f32, "f32", 1e-5, 1e-4, 1e-5);
}

}  // namespace
}  // namespace uipe::llama
