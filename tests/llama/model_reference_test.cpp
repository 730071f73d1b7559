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
using test::relative_distance;

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

std::vector<Sequence> sequences_of(const std::string& name) {
    return sequences_of(read_json(fixtures / "llama" / name / "sequences.json"));
}

/// What the fixture's files hold, by our model in `dtype`.
StateDict results(const std::string& name, DType dtype, const char* recompute) {
    Llama model = load(name, dtype);
    model.set_recompute(recompute_named(recompute));
    const Batch batch = pack(sequences_of(name));
    StateDict out;
    out["logits"] = Tensor::empty({batch.T, model.config().vocab_size}, dtype);
    tensor::logits(out["logits"], model.hidden(batch).value(), model.head().value());
    std::vector<double> of_targets;
    const std::vector<double> logp = test::doubles(model.logprob(batch).value());
    for (std::size_t t = 0; t < logp.size(); ++t) {
        if (batch.targets.data<std::int32_t>()[t] >= 0)
            of_targets.push_back(logp[t]);
        else
            EXPECT_EQ(logp[t], 0.0) << "row " << t << " has no target";
    }
    out["logprobs"] = Tensor::from(of_targets);
    out["mean_nll"] = Tensor::from(std::vector<double>{mean_nll(model, batch)});
    for (const nn::Parameter& p : model.parameters()) out["grad." + p.name] = p.variable.grad();
    return out;
}

/// How far one result may be from another program's, as a share of its norm. Some 25 roundings of one unit follow each
/// other in a layer (two norms, RoPE, softmax, SiLU, seven products, two sums), a gradient passes three times as many,
/// and the other program rounds as often. That is the worst case; measured are a third of it and less.
double tolerance(const std::string& name, DType dtype, std::int64_t layers) {
    const double unit = dtype == DType::f64 ? 0x1p-53 : 0x1p-24;
    const double roundings = 25.0 * static_cast<double>(layers) * (name.starts_with("grad.") ? 3 : 1);
    return 2.0 * roundings * unit;
}

void expect_results(const StateDict& got, const StateDict& expected, DType dtype, std::int64_t layers) {
    EXPECT_EQ(got.size(), expected.size());
    for (const auto& [name, x] : expected) {
        ASSERT_EQ(got.at(name).shape(), x.shape()) << name;
        EXPECT_LE(relative_distance(got.at(name), x), tolerance(name, dtype, layers)) << name;
    }
}

class Reference : public ::testing::TestWithParam<const char*> {
protected:
    const fs::path folder_ = fixtures / "llama" / GetParam();
    const std::int64_t layers_ = read_config(folder_).num_layers;
    const StateDict f64_ = read_safetensors(folder_ / "f64.safetensors");
    const StateDict f32_ = read_safetensors(folder_ / "f32.safetensors");

private:
    const test::Threads one_{1};
};

TEST_P(Reference, LogitsLogProbabilitiesLossAndEveryGradientArePyTorchs) {
    for (const char* recompute : recompute_modes) {
        expect_results(results(GetParam(), DType::f64, recompute), f64_, DType::f64, layers_);
        const StateDict got = results(GetParam(), DType::f32, recompute);
        expect_results(got, f64_, DType::f32, layers_);
        expect_results(got, f32_, DType::f32, layers_);
    }
}

TEST_P(Reference, InF32WeAreAsNearTheTruthAsTransformers) {
    double ours = 0.0;
    double theirs = 0.0;
    const StateDict got = results(GetParam(), DType::f32, "norm");
    for (const auto& [name, x] : f64_) {
        ours += std::pow(relative_distance(got.at(name), x), 2);
        theirs += std::pow(relative_distance(f32_.at(name), x), 2);
    }
    // Two sums of the same roundings in other orders: measured are 0.9 to 1.2.
    EXPECT_LE(std::sqrt(ours / theirs), 2.0);
}

INSTANTIATE_TEST_SUITE_P(Fixtures, Reference, ::testing::Values("grouped", "tied", "headdim", "odd", "long"),
                         [](const auto& test) { return std::string(test.param); });

// --- Training ---

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
        const Tensor squares = nn::grad_squares(model.parameters(), {});
        const double expected_norm = fixture[cat("grad_norm_", suffix)][i];
        EXPECT_NEAR(std::sqrt(squares.item()), expected_norm, norm * expected_norm) << k;
        const double factor = nn::schedule_factor(nn::Schedule::linear, k, settings["warmup_steps"], steps);
        EXPECT_DOUBLE_EQ(factor, fixture["multiplier"][i].get<double>()) << k;
        optimizer.step(settings["lr"].get<double>() * factor, squares, settings["max_grad_norm"]);
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
