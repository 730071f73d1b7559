// The objectives against PyTorch's numbers and against finite differences.
#include "unlearn/objective.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <set>
#include <utility>

#include "autograd/gradcheck.h"
#include "autograd/ops.h"
#include "llama/logprobs.h"
#include "llama/weights.h"
#include "tensor/base/json.h"
#include "tensor/ops.h"
#include "tests/llama/models.h"
#include "unlearn/methods/methods.h"

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

Tensor row_logprobs(const llama::Llama& model, const std::vector<llama::Sequence>& rows) {
    std::vector<double> logp;
    for (const auto& row : llama::token_logprobs(model, rows))
        logp.push_back(std::accumulate(row.begin(), row.end(), 0.0));
    return Tensor::from(logp).to(tensor::accumulator_of(model.dtype()));
}

/// Each row's prompt with two tokens behind it that no prompt needs.
std::vector<llama::Sequence> refusals_of(std::vector<llama::Sequence> rows) {
    for (llama::Sequence& s : rows) {
        s.ids.resize(static_cast<std::size_t>(s.first_target));
        s.ids.insert(s.ids.end(), {4, static_cast<std::int32_t>(s.first_target % 7)});
    }
    return rows;
}

Step step_of(const std::vector<llama::Sequence>& forget, const std::vector<llama::Sequence>& retain,
             const llama::Llama& reference, std::vector<llama::Sequence> refusals = {}) {
    Step s;
    if (refusals.empty()) refusals = refusals_of(forget);
    s.batch = packed(forget, retain, refusals);
    s.batch.forget_reference = row_logprobs(reference, forget);
    s.batch.refusal_reference = row_logprobs(reference, refusals);
    s.totals = {static_cast<double>(s.batch.forget.num_targets), static_cast<double>(s.batch.forget.B),
                static_cast<double>(s.batch.retain.num_targets), static_cast<double>(s.batch.retain.T),
                static_cast<double>(s.batch.refusal.num_targets)};
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

/// The sum of g times a direction, as tests/fixtures/make_methods.py numbers them.
double slope(const std::vector<double>& g, std::size_t direction) {
    if (direction == 2) return g.at(g.size() / 3);
    double sum = 0;
    for (std::size_t i = 0; i < g.size(); ++i) {
        const auto x = static_cast<double>(i);
        sum += g[i] * (direction == 0 ? std::cos(x) : std::sin(0.7 * x + 0.3));
    }
    return sum;
}

TEST_F(Objectives, NewerMethodsAndTheirGradientsAreNumPysInF64) {
    const Json rows = read_json(fixtures / "objectives.json");
    const Json expected = read_json(fixtures / "methods.json");
    const llama::Llama model = fixture("grouped", DType::f64);
    const llama::Llama reference = fixture("grouped_ref", DType::f64);
    const Step step = step_of(sequences_of(rows["forget"]), sequences_of(rows["retain"]), reference,
                              sequences_of(expected["refusals"]));
    ASSERT_EQ(expected["methods"].size(), 9U);
    for (const auto& [name, want] : expected["methods"].items()) {
        SCOPED_TRACE(name);
        const Objective& objective = unlearning_objective(name);
        ObjectiveOptions options = objective.defaults;
        options.rmu_layer = 1;
        if (name == "satimp") options.beta = 0.5, options.beta2 = 2;
        for (const nn::Parameter& p : model.parameters()) p.variable.clear_grad();
        const Variable loss = objective.loss(Terms(model, &reference, step.batch, step.totals, options));
        autograd::backward(loss);
        const double value = want["value"];
        EXPECT_NEAR(loss.value().item(), value, 1e-11 * std::abs(value));
        ASSERT_EQ(want["slopes"].size(), model.parameters().size());
        for (const nn::Parameter& p : model.parameters()) {
            const Tensor grad = p.variable.grad();
            const std::vector<double> g =
                grad.defined() ? test::doubles(grad)
                               : std::vector<double>(static_cast<std::size_t>(p.variable.value().numel()));
            for (std::size_t i = 0; i < 3; ++i) {
                const double s = want["slopes"][p.name][i];
                const double length = grad.defined() ? std::sqrt(tensor::sum_of_squares(grad)) : 0.0;
                EXPECT_NEAR(slope(g, i), s, 1e-10 * (std::abs(s) + length)) << p.name << " along " << i;
            }
        }
    }
}

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
    EXPECT_NEAR(terms.mean_over_forget_rows(terms.forget_log_ratio()).value().item(), mean_log_ratio, 1e-11);
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

/// The names in the list of methods, in its order.
#define UIPE_NAME(name) #name,
const std::vector<std::string> listed{UIPE_METHODS(UIPE_NAME)};
#undef UIPE_NAME

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

/// The largest difference of two tensors' elements.
double apart(const Tensor& a, const Tensor& b) {
    const std::vector<double> p = test::doubles(a);
    const std::vector<double> q = test::doubles(b);
    double most = 0;
    for (std::size_t i = 0; i < q.size(); ++i) most = std::max(most, std::abs(p.at(i) - q[i]));
    return most;
}

/// For an objective that takes a part of its loss for constant: a loss in which that part is held at what it is now,
/// so that finite differences of it are the objective's gradient. Nothing for others.
std::function<Variable()> with_constants_held(const Objective& objective, const llama::Llama& model, const Step& step,
                                              const ObjectiveOptions& o) {
    const bool weighs = objective.name == "wga" || objective.name == "satimp";
    if (!weighs && objective.name != "ceu") return {};
    const auto hidden = [&model, &batch = step.batch] {
        return autograd::rows(model.hidden(batch.all), 0, batch.forget.T);
    };
    const Tensor now = hidden().value().clone();
    const Tensor head = model.head().value().clone();
    if (!weighs) {
        std::vector<std::int32_t> targets = step.batch.forget.targets.to_vector<std::int32_t>();
        std::int32_t before = -1;  // a prompt stands before each answer, or the first row of a sequence
        for (std::int64_t b = 0, t = 0; b < step.batch.forget.B; ++b, before = -1)
            for (; t < step.batch.forget.cu_seqlens.data<std::int32_t>()[b + 1]; ++t)
                before = std::exchange(targets[static_cast<std::size_t>(t)],
                                       before < 0 ? -1 : targets[static_cast<std::size_t>(t)]);
        const double n = step.totals.forget_targets - step.totals.forget_rows;
        return [=, &model, kept = Tensor::from(targets)] {
            const double infinity = std::numeric_limits<double>::infinity();
            return autograd::scale(
                autograd::sum(autograd::token_cross_entropy(hidden(), model.head(), now, head, kept, infinity)),
                o.forget_weight / n);
        };
    }
    const Tensor targets = step.batch.forget.targets;
    const Tensor logp = autograd::token_logprob(Variable(now), Variable(head), targets).value();
    std::vector<double> weights;
    for (const double x : test::doubles(logp)) {
        const double p = std::exp(x);
        weights.push_back(std::pow(p, o.beta) * (objective.name == "wga" ? 1.0 : std::pow(1.0 - p, o.beta2)));
    }
    return [=, &model, &step, w = Tensor::from(weights)] {
        const Terms terms(model, nullptr, step.batch, step.totals, o);
        const Variable all = autograd::token_logprob(hidden(), model.head(), targets);
        return autograd::add(autograd::scale(autograd::sum(autograd::mul(all, Variable(w))),
                                             o.forget_weight / step.totals.forget_targets),
                             autograd::scale(terms.retain_nll(), o.retain_weight));
    };
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
    const std::function<Variable()> held = with_constants_held(objective, model, step, options);
    const auto check = autograd::gradcheck(held ? held : loss, llama::variables_of(model));
    EXPECT_LE(check.worst, 1e-7) << check.place;
    for (const nn::Parameter& p : model.parameters()) {
        if (objective.layer && (p.name == "model.norm.weight" || p.name == "lm_head.weight")) {
            EXPECT_FALSE(p.variable.grad().defined()) << p.name << " is above the layer";
            continue;
        }
        EXPECT_GT(tensor::sum_of_squares(p.variable.grad()), 1e-4) << p.name << ": too small to be checked";
    }
    if (!held) return;
    std::vector<Tensor> gradients;
    for (const nn::Parameter& p : model.parameters()) {
        gradients.push_back(p.variable.grad());
        p.variable.clear_grad();
    }
    autograd::backward(loss());
    for (std::size_t i = 0; i < gradients.size(); ++i)
        EXPECT_LE(apart(model.parameters()[i].variable.grad(), gradients[i]), 1e-12) << model.parameters()[i].name;
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
                if (answers && objective.name != "kl_min") continue;
                llama::Config config = tiny_config();
                config.tie_word_embeddings = tied;
                options.kl_on_answers = answers;
                expect_finite_differences(objective, config, tied ? "block" : "mlp", options);
            }
    }
    EXPECT_EQ(names, listed);
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
                for (const Variable& p : llama::variables_of(model))
                    if (p.grad().defined()) got.push_back(p.grad());
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

/// The gradient of a method by all parameters, one after another.
std::vector<double> gradient_of(const char* method, const llama::Llama& model, const llama::Llama& reference,
                                const Step& step, const ObjectiveOptions& options) {
    for (const nn::Parameter& p : model.parameters()) p.variable.clear_grad();
    autograd::backward(unlearning_objective(method).loss(Terms(model, &reference, step.batch, step.totals, options)));
    std::vector<double> out;
    for (const nn::Parameter& p : model.parameters()) {
        const std::vector<double> g = test::doubles(p.variable.grad());
        out.insert(out.end(), g.begin(), g.end());
    }
    return out;
}

double length(const std::vector<double>& x) {
    return std::sqrt(std::inner_product(x.begin(), x.end(), x.begin(), 0.0));
}

/// Of a from factor times b, as a share of the latter.
double apart(const std::vector<double>& a, const std::vector<double>& b, double factor) {
    std::vector<double> d(a.size());
    for (std::size_t i = 0; i < d.size(); ++i) d[i] = a[i] - factor * b.at(i);
    return length(d) / (std::abs(factor) * length(b));
}

class TwoModels : public Objectives {
protected:
    const llama::Config config = tiny_config();
    const llama::Llama model = llama::lively_model(config, DType::f64, 1);
    const llama::Llama reference = llama::lively_model(config, DType::f64, 2);
    const std::vector<llama::Sequence> rows = llama::random_sequences(config, {5, 3, 7});
    const std::vector<llama::Sequence> retain = llama::random_sequences(config, {4, 6});
};

TEST_F(TwoModels, NpoWeighsTheAscentOfEachRow) {
    double lightest = 2;
    double heaviest = 0;
    for (const llama::Sequence& row : rows) {
        Step step = step_of({row}, retain, reference);
        step.totals.forget_targets = 1;  // GA's sum over the row
        const double log_ratio = row_logprobs(model, {row}).item() - row_logprobs(reference, {row}).item();
        ObjectiveOptions options;
        const std::vector<double> ga = gradient_of("ga", model, reference, step, options);
        for (const double beta : {1.0, 0.1}) {
            options.beta = beta;
            const double weight = 2.0 / (1.0 + std::exp(-beta * log_ratio));  // 2 π^β / (π^β + π_ref^β)
            EXPECT_LE(apart(gradient_of("npo", model, reference, step, options), ga, weight), 1e-12) << beta;
            lightest = std::min(lightest, weight);
            heaviest = std::max(heaviest, weight);
        }
        options.beta = 1e-6;
        EXPECT_LE(apart(gradient_of("npo", model, reference, step, options), ga, 1.0), 1e-5) << "beta -> 0 is GA";
    }
    EXPECT_LT(lightest, 0.8);
    EXPECT_GT(heaviest, 1.2);
}

TEST_F(TwoModels, WgaWithoutItsExponentIsGradDiffAndSatImpWithoutItsSecondIsWga) {
    const Step step = step_of(rows, retain, reference);
    ObjectiveOptions options;
    options.beta = 0;
    EXPECT_LE(apart(gradient_of("wga", model, reference, step, options),
                    gradient_of("grad_diff", model, reference, step, options), 1.0),
              1e-13);
    options.beta = 0.5;
    options.beta2 = 0;
    const std::vector<double> wga = gradient_of("wga", model, reference, step, options);
    EXPECT_LE(apart(gradient_of("satimp", model, reference, step, options), wga, 1.0), 1e-13);
    options.beta2 = 1;
    EXPECT_GT(apart(gradient_of("satimp", model, reference, step, options), wga, 1.0), 1e-3);
}

TEST_F(TwoModels, UndialWithoutAShiftDoesNotMoveTheInitialModel) {
    const Step step = step_of(rows, retain, model);
    ObjectiveOptions options;
    options.beta = 0;
    EXPECT_LE(length(gradient_of("undial", model, model, step, options)), 1e-13);
    options.beta = 10;
    EXPECT_GE(length(gradient_of("undial", model, model, step, options)), 1e-2);
}

TEST_F(TwoModels, WhereAllTokensAreEquallyLikelyCeuIsTheLogOfTheirNumber) {
    llama::StateDict weights = llama::own_weights(model.weights(), DType::f64);
    tensor::fill(weights.at("lm_head.weight"), 0.0);
    const llama::Llama even(config, weights);
    const Step step = step_of(rows, {}, even);
    const ObjectiveOptions options;
    const Terms terms(even, nullptr, step.batch, step.totals, options);
    EXPECT_NEAR(terms.forget_without_target().value().item(), std::log(static_cast<double>(config.vocab_size)), 1e-12);
}

TEST_F(TwoModels, AtTheReferenceDpoIsItsConstantAndRmuHoldsWhatIsRetained) {
    const Step step = step_of(rows, retain, model);
    ObjectiveOptions options;
    options.beta = 0.25;
    const Terms terms(model, &model, step.batch, step.totals, options);
    EXPECT_NEAR(unlearning_objective("dpo").loss(terms).value().item(), 2.0 / 0.25 * std::log(2.0), 1e-12);
    EXPECT_EQ(terms.retain_activations().value().item(), 0.0);
    EXPECT_GT(terms.forget_activations().value().item(), 1e-3);
}

TEST_F(TwoModels, RmuRefusesALayerThatIsNotThere) {
    ObjectiveOptions options;
    EXPECT_EQ(rmu_layer(options, config), config.num_layers) << "the last of fewer than eight";
    options.rmu_layer = 1;
    EXPECT_EQ(rmu_layer(options, config), 1);
    options.rmu_layer = config.num_layers + 1;
    EXPECT_SAYS(llama::message_of([&] { rmu_layer(options, config); }), "--rmu-layer");
    llama::Config deep = config;
    deep.num_layers = 32;
    EXPECT_EQ(rmu_layer({}, deep), 8);
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
