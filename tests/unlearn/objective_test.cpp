// The objectives against PyTorch's numbers and against finite differences.
#include "unlearn/objective.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <set>

#include "autograd/gradcheck.h"
#include "autograd/ops.h"
#include "llama/logprobs.h"
#include "llama/weights.h"
#include "tensor/base/json.h"
#include "tests/llama/models.h"

namespace uipe::unlearn {
namespace {

using tensor::DType;

const fs::path fixtures = FIXTURES;

llama::Llama fixture(const std::string& name, DType dtype) {
    const fs::path folder = fixtures / "llama" / name;
    const llama::Config config = llama::read_config(folder);
    return {config, llama::own_weights(llama::read_weights(folder, config), dtype)};
}

std::vector<llama::Sequence> sequences_of(const Json& json) {
    std::vector<llama::Sequence> out;
    for (const Json& s : json)
        out.push_back({s["ids"].get<std::vector<std::int32_t>>(), s["first_target"].get<std::int64_t>()});
    return out;
}

/// A whole step as one micro-batch.
struct Step {
    MicroBatch batch;
    StepTotals totals;
};

Step step_of(const std::vector<llama::Sequence>& forget, const std::vector<llama::Sequence>& retain,
             const llama::Llama& reference) {
    Step s;
    s.batch = packed(forget, retain);
    std::vector<double> logp;
    for (const auto& row : llama::token_logprobs(reference, forget))
        logp.push_back(std::accumulate(row.begin(), row.end(), 0.0));
    s.batch.reference_logp = Tensor::from(logp).to(tensor::accumulator_of(reference.dtype()));
    s.totals = {static_cast<double>(s.batch.forget.num_targets), static_cast<double>(s.batch.forget.B),
                static_cast<double>(s.batch.retain.num_targets), static_cast<double>(s.batch.retain.T)};
    return s;
}

struct Case {
    const char* fixture;
    const char* method;
    double beta;
};
constexpr Case cases[] = {
    {"ga", "ga", 0.1},       {"grad_diff", "grad_diff", 0.1}, {"kl_min", "kl_min", 0.1},    {"npo_1", "npo", 1},
    {"npo_0.1", "npo", 0.1}, {"npo_rt_1", "npo_rt", 1},       {"npo_rt_0.1", "npo_rt", 0.1}};

class Objectives : public ::testing::Test {
    const test::Threads one_{1};
};

/// Value and gradients of every case; tolerances are those of tests/fixtures/README.md.
void expect_fixture(DType dtype, double loss_tolerance, double npo_tolerance, double gradient_tolerance) {
    const Json expected = read_json(fixtures / "objectives.json");
    const llama::Llama model = fixture("grouped", dtype);
    const llama::Llama reference = fixture("grouped_ref", dtype);
    const Step step = step_of(sequences_of(expected["forget"]), sequences_of(expected["retain"]), reference);
    for (const Case& c : cases) {
        SCOPED_TRACE(c.fixture);
        ObjectiveOptions options;
        options.beta = c.beta;
        for (const nn::Parameter& p : model.parameters()) p.variable.clear_grad();
        const Variable loss =
            unlearning_objective(c.method).loss(Terms(model, &reference, step.batch, step.totals, options));
        autograd::backward(loss);
        const bool npo = std::string(c.method).starts_with("npo");
        EXPECT_NEAR(loss.value().item(), expected["values"][c.fixture].get<double>(),
                    npo ? npo_tolerance : loss_tolerance);
        const Json& norms = expected["grad_norms"][c.fixture];
        ASSERT_EQ(norms.size(), model.parameters().size());
        for (const nn::Parameter& p : model.parameters()) {
            const double norm = norms[p.name]["norm"];
            EXPECT_NEAR(std::sqrt(tensor::sum_of_squares(p.variable.grad())), norm, gradient_tolerance * norm)
                << p.name;
            const std::vector<double> g = test::doubles(p.variable.grad());
            for (const Json& sample : norms[p.name]["samples"])
                EXPECT_NEAR(g.at(sample[0].get<std::size_t>()), sample[1].get<double>(), gradient_tolerance * norm)
                    << p.name << " element " << sample[0];
        }
    }
}

TEST_F(Objectives, ValuesAndGradientsArePyTorchsInF64) { expect_fixture(DType::f64, 1e-12, 1e-11, 1e-10); }

TEST_F(Objectives, ValuesAndGradientsArePyTorchsInF32) { expect_fixture(DType::f32, 2e-5, 5e-5, 5e-5); }

TEST_F(Objectives, TermsArePyTorchs) {
    const Json expected = read_json(fixtures / "objectives.json");
    const llama::Llama model = fixture("grouped", DType::f64);
    const llama::Llama reference = fixture("grouped_ref", DType::f64);
    const Step step = step_of(sequences_of(expected["forget"]), sequences_of(expected["retain"]), reference);
    const ObjectiveOptions options;
    const Terms terms(model, &reference, step.batch, step.totals, options);
    const Json& want = expected["terms"];
    EXPECT_NEAR(terms.forget_nll().value().item(), want["mean_nll_forget"].get<double>(), 1e-12);
    EXPECT_NEAR(terms.retain_nll().value().item(), want["mean_nll_retain"].get<double>(), 1e-12);
    EXPECT_NEAR(terms.retain_kl().value().item(), want["kl_retain"].get<double>(), 1e-12);
    double mean_log_ratio = 0;
    for (std::size_t i = 0; i < 3; ++i)
        mean_log_ratio +=
            (want["nll_rows_forget_ref"][i].get<double>() - want["nll_rows_forget"][i].get<double>()) / 3.0;
    const auto identity = [](const Variable& log_ratio) { return log_ratio; };
    EXPECT_NEAR(terms.mean_over_forget_rows(identity).value().item(), mean_log_ratio, 1e-11);
}

/// Two layers with grouped heads, small enough for finite differences: some 600 numbers.
llama::Config tiny_config() {
    llama::Config c = llama::small_config();
    c.hidden_size = 6;
    c.intermediate_size = 5;
    c.head_dim = 2;
    c.vocab_size = 11;
    return c;
}

/// How many ops that `of` depends on read the variable.
int uses_of(const Variable& variable, const Variable& of) {
    std::vector<const autograd::Node*> nodes{of.node().get()};
    std::set<const autograd::Node*> seen;
    int uses = 0;
    while (!nodes.empty()) {
        const autograd::Node* node = nodes.back();
        nodes.pop_back();
        if (node == nullptr || !seen.insert(node).second) continue;
        for (const auto& input : node->inputs) {
            uses += input == variable.node() ? 1 : 0;
            nodes.push_back(input.get());
        }
    }
    return uses;
}

/// Every element of every parameter of two layers, for one objective.
void expect_finite_differences(const Objective& objective, const llama::Config& config, const char* recompute,
                               const ObjectiveOptions& options) {
    SCOPED_TRACE(cat(objective.name, config.tie_word_embeddings ? " tied" : "", ", ", recompute,
                     options.kl_on_answers ? " on answers" : ""));
    llama::Llama model = llama::lively_model(config, DType::f64, 1);
    model.set_recompute(llama::recompute_named(recompute));
    const llama::Llama reference = llama::lively_model(config, DType::f64, 2);
    const Step step =
        step_of(llama::random_sequences(config, {5, 3, 7}), llama::random_sequences(config, {4, 6}), reference);
    const auto loss = [&] { return objective.loss(Terms(model, &reference, step.batch, step.totals, options)); };
    const auto check = autograd::gradcheck(loss, llama::variables_of(model));
    EXPECT_LE(check.worst, 1e-7) << check.place;
    for (const nn::Parameter& p : model.parameters())
        EXPECT_GT(tensor::sum_of_squares(p.variable.grad()), 1e-4) << p.name << ": too small to be checked";
}

TEST_F(Objectives, GradientsAreFiniteDifferences) {
    ObjectiveOptions options;
    options.beta = 0.7;
    options.forget_weight = 1.3;
    options.retain_weight = 0.4;
    std::vector<std::string> names;
    for (const Objective& objective : objectives()) {
        names.push_back(objective.name);
        for (const bool tied : {false, true})
            for (const bool answers : {false, true}) {
                if (answers && !objective.reference_model) continue;
                llama::Config config = tiny_config();
                config.tie_word_embeddings = tied;
                options.kl_on_answers = answers;
                expect_finite_differences(objective, config, tied ? "block" : "mlp", options);
            }
    }
    EXPECT_EQ(names, (std::vector<std::string>{"nll", "ga", "grad_diff", "kl_min", "npo", "npo_rt"}));
}

TEST_F(Objectives, RecomputationGivesEqualBits) {
    const llama::Config config = llama::small_config();
    for (const DType dtype : {DType::f32, DType::bf16}) {
        const llama::Llama reference = llama::lively_model(config, dtype, 2);
        const Step step =
            step_of(llama::random_sequences(config, {9, 5, 31}), llama::random_sequences(config, {4, 17}), reference);
        for (const Objective& objective : objectives()) {
            std::vector<Tensor> expected;  // of the first mode
            for (const char* recompute : llama::recompute_modes) {
                SCOPED_TRACE(cat(objective.name, " ", name_of(dtype), ", ", recompute));
                llama::Llama model = llama::lively_model(config, dtype, 1);
                model.set_recompute(llama::recompute_named(recompute));
                const Variable loss = objective.loss(Terms(model, &reference, step.batch, step.totals, {}));
                autograd::backward(loss);
                std::vector<Tensor> got{loss.value()};
                for (const Variable& p : llama::variables_of(model)) got.push_back(p.grad());
                if (expected.empty()) expected = got;
                for (std::size_t i = 0; i < got.size(); ++i)
                    EXPECT_TRUE(test::same_bits(got[i], expected[i])) << "result " << i;
            }
        }
    }
}

/// However many terms an objective has: blocks are gathered, and their gradients sent, as often as they are visited.
TEST_F(Objectives, TheModelIsRunOnceForAllTerms) {
    const llama::Config config = tiny_config();
    const llama::Llama model = llama::lively_model(config, DType::f64, 1);
    const Step step = step_of(llama::random_sequences(config, {5, 3}), llama::random_sequences(config, {4, 6}), model);
    const ObjectiveOptions options;
    const Terms terms(model, &model, step.batch, step.totals, options);
    const Variable loss = autograd::add(autograd::add(terms.forget_nll(), terms.retain_nll()), terms.retain_kl());
    EXPECT_EQ(uses_of(model.parameters().front().variable, loss), 1);
}

TEST_F(Objectives, NothingFlowsIntoTheReference) {
    const llama::Config config = tiny_config();
    const llama::Llama model = llama::lively_model(config, DType::f64, 1);
    const llama::Llama reference = llama::lively_model(config, DType::f64, 2);
    const auto rows = llama::random_sequences(config, {5, 3});
    const Step step = step_of(rows, rows, reference);
    const ObjectiveOptions options;
    for (const Objective& objective : objectives())
        autograd::backward(objective.loss(Terms(model, &reference, step.batch, step.totals, options)));
    for (const nn::Parameter& p : reference.parameters())
        EXPECT_TRUE(!p.variable.grad().defined() || tensor::sum_of_squares(p.variable.grad()) == 0.0) << p.name;
}

TEST_F(Objectives, AtTheReferenceKlIsZeroAndNpoIsItsConstant) {
    const llama::Config config = tiny_config();
    const llama::Llama model = llama::lively_model(config, DType::f64, 1);
    const auto rows = llama::random_sequences(config, {5, 3, 6});
    const Step step = step_of(rows, rows, model);
    ObjectiveOptions options;
    options.beta = 0.25;
    const Terms terms(model, &model, step.batch, step.totals, options);
    EXPECT_NEAR(terms.retain_kl().value().item(), 0.0, 1e-13);
    EXPECT_NEAR(unlearning_objective("npo").loss(terms).value().item(), 2.0 / 0.25 * std::log(2.0), 1e-12);
}

TEST(ObjectiveNames, AnUnknownMethodListsTheKnown) {
    for (const char* name : {"frobnicate", "", "nll", "GA"}) {
        const std::string message = llama::message_of([&] { unlearning_objective(name); });
        for (const char* known : {"ga", "grad_diff", "kl_min", "npo", "npo_rt"}) EXPECT_SAYS(message, known);
    }
    EXPECT_EQ(unlearning_objective("npo_rt").title, "NPO-RT");
    EXPECT_FALSE(fine_tuning().unlearns);
}

}  // namespace
}  // namespace uipe::unlearn
