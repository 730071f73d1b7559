// Training on the device: the curve of the CPU, no waits and no new memory within a step, the same bits after a stop;
// and a whole unlearning run with its evaluation.
#include "llama/adapter.h"
#include "llama/weights.h"
#include "tensor/allocator.h"
#include "tensor/cuda/runtime.h"
#include "tests/cuda/cuda_test.h"
#include "tests/llama/models.h"
#include "tests/unlearn/program.h"
#include "unlearn/trainer.h"
#ifdef UIPE_EMULATED
#include "tensor/cuda/device/emulator.h"
#endif

namespace uipe::unlearn {
namespace {

using llama::TemporaryFolder;
using tensor::Device;
using tensor::DType;

/// With one retain row and one refusal, so that every epoch pairs the same ones.
TrainData data() {
    const llama::Config config = llama::small_config();
    return {llama::random_sequences(config, {9, 12, 5, 17, 8, 21, 3, 6}),
            {},
            llama::random_sequences(config, {15}),
            llama::random_sequences(config, {11})};
}

/// Epochs of one step, all alike.
TrainerOptions options(std::int64_t epochs) {
    TrainerOptions o;
    o.epochs = epochs;
    o.micro_batch = 3;
    o.lr = 1e-3;
    o.schedule = nn::Schedule::constant;
    o.warmup_epochs = 2.0;
    o.shuffle = false;
    return o;
}

llama::Llama model_on(Device device, DType dtype = DType::f32, std::uint64_t seed = 1) {
    const llama::Config config = llama::small_config();
    return {config, llama::own_weights(llama::lively_weights(config, dtype, seed), dtype, device)};
}

std::vector<StepInfo> run(Trainer& trainer) {
    std::vector<StepInfo> out;
    while (trainer.step() < trainer.total_steps()) out.push_back(trainer.run_step());
    return out;
}

using CudaTraining = tensor::test::Cuda;

TEST_F(CudaTraining, TwentyStepsAreTheCpus) {
    llama::Llama here = model_on({});
    llama::Llama there = model_on(cuda());
    Trainer cpu(here, nullptr, fine_tuning(), data(), options(20));
    Trainer gpu(there, nullptr, fine_tuning(), data(), options(20));
    const std::vector<StepInfo> want = run(cpu);
    const std::vector<StepInfo> got = run(gpu);
    ASSERT_EQ(got.size(), 20U);
    EXPECT_LT(want.back().loss, 0.9 * want.front().loss) << "nothing was learned";
    for (std::size_t i = 0; i < got.size(); ++i) {
        // f32 sums in another order: a few hundred of its eps, for AdamW's first steps are signs of gradients.
        EXPECT_NEAR(got[i].loss, want[i].loss, 1e-5 * want[i].loss) << "step " << i + 1;
        EXPECT_NEAR(got[i].grad_norm, want[i].grad_norm, 1e-3 * want[i].grad_norm) << "step " << i + 1;
        EXPECT_EQ(got[i].tokens, want[i].tokens);
        EXPECT_EQ(got[i].lr, want[i].lr);
    }
}

TEST_F(CudaTraining, TwoStepsOfEveryMethodAreTheCpus) {
    for (const Objective& objective : objectives()) {
        SCOPED_TRACE(objective.name);
        llama::Llama here = model_on({});
        llama::Llama there = model_on(cuda());
        llama::Llama reference_here = model_on({}, DType::f32, 2);
        llama::Llama reference_there = model_on(cuda(), DType::f32, 2);
        TrainerOptions o = options(2);
        o.objective = objective.defaults;
        o.warmup_epochs = 0;
        Trainer cpu(here, &reference_here, objective, data(), o);
        Trainer gpu(there, &reference_there, objective, data(), o);
        const std::vector<StepInfo> want = run(cpu);
        const std::vector<StepInfo> got = run(gpu);
        for (std::size_t i = 0; i < want.size(); ++i) {  // bounds as of twenty steps
            EXPECT_NEAR(got[i].loss, want[i].loss, 1e-5 * std::max(1.0, std::abs(want[i].loss))) << i;
            EXPECT_NEAR(got[i].grad_norm, want[i].grad_norm, 1e-3 * want[i].grad_norm) << i;
            EXPECT_EQ(got[i].tokens, want[i].tokens);
        }
    }
}

TEST_F(CudaTraining, AStepIsLaunchedWithoutAWaitAndTakesNoNewMemoryAfterTheSecond) {
    for (const char* name : {"grad_diff", "kl_min", "npo_rt", "dpo_rt", "satimp", "undial", "ceu", "rmu"}) {
        SCOPED_TRACE(name);
        llama::Llama model = model_on(cuda(), DType::bf16);
        llama::Llama reference = model_on(cuda(), DType::bf16, 2);
        TrainerOptions o = options(6);
        o.batch_size = 8;
        Trainer trainer(model, &reference, unlearning_objective(name), data(), o);
        trainer.run_step();
        trainer.run_step();
        const std::size_t allocations = tensor::memory_stats(cuda()).allocations;
        trainer.launch_step();
        trainer.finish_step();
        const std::size_t waits = tensor::cuda::waits();
        trainer.launch_step();
        EXPECT_EQ(tensor::cuda::waits(), waits);
        EXPECT_EQ(trainer.launched() - trainer.step(), 1);
        trainer.finish_step();
        EXPECT_GT(tensor::cuda::waits(), waits);
        EXPECT_EQ(tensor::memory_stats(cuda()).allocations, allocations);
    }
}

TEST_F(CudaTraining, StepsInFlightGiveTheBitsOfStepsOneByOne) {
    llama::Llama a = model_on(cuda());
    llama::Llama b = model_on(cuda());
    Trainer one_by_one(a, nullptr, fine_tuning(), data(), options(4));
    Trainer ahead(b, nullptr, fine_tuning(), data(), options(4));
    const std::vector<StepInfo> want = run(one_by_one);
    ahead.launch_step();
    for (const StepInfo& expected : want) {
        if (ahead.launched() < ahead.total_steps()) ahead.launch_step();
        const StepInfo info = ahead.finish_step();
        EXPECT_EQ(info.step, expected.step);
        EXPECT_EQ(info.loss, expected.loss);
        EXPECT_EQ(info.grad_norm, expected.grad_norm);
        EXPECT_EQ(info.tokens, expected.tokens);
    }
    for (const auto& [name, w] : b.weights())
        EXPECT_TRUE(test::same_bits(w.to(Device{}), a.weights().at(name).to(Device{}))) << name;
}

TEST_F(CudaTraining, AStepThatIsNotFiniteIsNamedWhenAnotherIsBehindIt) {
    llama::Llama model = model_on(cuda());
    TrainerOptions o = options(5);
    o.lr = 1e30;
    o.warmup_epochs = 0.0;
    Trainer trainer(model, nullptr, fine_tuning(), data(), o);
    trainer.run_step();
    trainer.launch_step();
    trainer.launch_step();
    EXPECT_SAYS(llama::message_of<Error>([&] { trainer.finish_step(); }), "step 2:");
    EXPECT_EQ(trainer.step(), 1);
}

TEST_F(CudaTraining, AResumedRunIsTheUninterruptedOneBitForBit) {
    const TemporaryFolder folder;
    llama::Llama straight = model_on(cuda(), DType::bf16);
    Trainer whole(straight, nullptr, fine_tuning(), data(), options(4));
    const std::vector<StepInfo> want = run(whole);
    llama::Llama begun = model_on(cuda(), DType::bf16);
    Trainer first(begun, nullptr, fine_tuning(), data(), options(4));
    first.run_step();
    first.launch_step();
    EXPECT_SAYS(llama::message_of<Error>([&] { first.save(folder / "checkpoint"); }), "not finished");
    first.finish_step();
    first.save(folder / "checkpoint");
    llama::Llama other = model_on(cuda(), DType::bf16, 9);
    Trainer second(other, nullptr, fine_tuning(), data(), options(4));
    second.load(folder / "checkpoint");
    const std::vector<StepInfo> got = run(second);
    ASSERT_EQ(got.size(), 2U);
    for (std::size_t i = 0; i < 2; ++i) EXPECT_EQ(got[i].loss, want[i + 2].loss);
    for (const auto& [name, w] : other.weights())
        EXPECT_TRUE(test::same_bits(w.to(Device{}), straight.weights().at(name).to(Device{}))) << name;
}

// --- The optimizer on the host
// ----------------------------------------------------------------------------------------

class CudaOffload : public tensor::test::Cuda {
protected:
    /// A model, whole or an adapter, and its training with or without the optimizer on the host.
    struct Session {
        std::unique_ptr<llama::Llama> model;
        std::unique_ptr<Trainer> trainer;
    };
    Session session(DType dtype, DType moments, bool offload, bool lora = false, std::uint64_t seed = 1) const {
        Session s;
        const llama::Config config = llama::small_config();
        s.model = std::make_unique<llama::Llama>(model_on(cuda(), dtype, seed));
        if (lora) s.model->set_adapter(adapter(dtype, seed));
        TrainerOptions o = options(4);
        o.adamw.moments = moments;
        o.adamw.offload = offload;
        o.max_grad_norm = 0.5;
        s.trainer = std::make_unique<Trainer>(*s.model, nullptr, fine_tuning(), data(), o);
        return s;
    }
    llama::Adapter adapter(DType dtype, std::uint64_t seed) const {
        llama::Adapter out = llama::fresh_adapter(llama::small_config(), {.rank = 2, .alpha = 4.0}, seed);
        for (auto& [name, w] : out.weights) w = w.to(dtype).to(cuda());
        return out;
    }
    static void expect_same(const Session& a, const Session& b) {
        const llama::StateDict want = b.trainer->state();
        for (const auto& [name, t] : a.trainer->state())
            EXPECT_TRUE(test::same_bits(t.to(Device{}), want.at(name).to(Device{}))) << name;
        const nn::Parameters weights = b.model->parameters();
        std::size_t i = 0;
        for (const nn::Parameter& p : a.model->parameters()) {
            const Tensor other = weights[i++].variable.value();
            EXPECT_TRUE(test::same_bits(p.variable.value().to(Device{}), other.to(Device{}))) << p.name;
        }
    }
};

TEST_F(CudaOffload, GivesTheBitsOfTheOptimizerOnTheDevice) {
    for (const bool lora : {false, true})
        for (const DType dtype : {DType::f32, DType::bf16})
            for (const DType moments : {DType::f32, DType::bf16}) {
                SCOPED_TRACE(cat(lora ? "lora " : "", tensor::name_of(dtype), ", moments ", tensor::name_of(moments)));
                const Session there = session(dtype, moments, false, lora);
                const Session here = session(dtype, moments, true, lora);
                for (const auto& [name, t] : here.trainer->state()) EXPECT_EQ(t.device(), Device{}) << name;
                const std::vector<StepInfo> want = run(*there.trainer);
                const std::vector<StepInfo> got = run(*here.trainer);
                for (std::size_t i = 0; i < want.size(); ++i) {
                    EXPECT_EQ(got[i].loss, want[i].loss);
                    EXPECT_EQ(got[i].grad_norm, want[i].grad_norm);
                    EXPECT_GT(want[i].grad_norm, 0.5) << "nothing is clipped";
                }
                expect_same(here, there);
            }
}

#ifdef UIPE_EMULATED
TEST_F(CudaOffload, ReadsAGradientWhenItsCopyIsThereAndNotBefore) {
    const Session there = session(DType::bf16, DType::f32, false);
    const Session here = session(DType::bf16, DType::f32, true);
    run(*there.trainer);
    const emulator::Options before = emulator::options();
    emulator::options().late_copies = true;
    run(*here.trainer);
    emulator::options() = before;
    expect_same(here, there);
}
#endif

TEST_F(CudaOffload, RunsGoOnWithItAndWithout) {
    const TemporaryFolder folder;
    const Session whole = session(DType::bf16, DType::bf16, false);
    run(*whole.trainer);
    for (const bool first : {false, true}) {
        SCOPED_TRACE(first ? "begun on the host" : "begun on the device");
        const Session begun = session(DType::bf16, DType::bf16, first);
        begun.trainer->run_step();
        begun.trainer->run_step();
        begun.trainer->save(folder / cat("checkpoint", first));
        const Session resumed = session(DType::bf16, DType::bf16, !first, false, 9);
        resumed.trainer->load(folder / cat("checkpoint", first));
        run(*resumed.trainer);
        expect_same(resumed, whole);
    }
    const Session wide = session(DType::bf16, DType::f32, true);
    EXPECT_SAYS(llama::message_of([&] { wide.trainer->load(folder / "checkpoint0"); }), "in bf16, the model needs f32");
}

TEST_F(CudaOffload, AGradientThatIsNotFiniteChangesNothing) {
    const Tensor start = tensor::test::normal({3, 5}, DType::bf16);
    const nn::Parameter p{"w", autograd::Variable::parameter(on(start))};
    nn::AdamW optimizer({p}, {.offload = true});
    autograd::backward(p.variable, on(Tensor::full({3, 5}, DType::f32, std::numeric_limits<double>::infinity())));
    optimizer.step(0.1, nn::grad_squares({p}, cuda()), 1.0);
    EXPECT_FALSE(p.variable.grad().defined());
    EXPECT_TRUE(test::same_bits(p.variable.value().to(Device{}), start));
    for (const double m : test::doubles(optimizer.state().at("m.w"))) EXPECT_EQ(m, 0.0);
    EXPECT_EQ(optimizer.steps(), 1);
}

using CudaProgram = tensor::test::Cuda;

TEST_F(CudaProgram, AnOffloadedRunIsResumedWithoutAndEndsInTheSameModel) {
    using namespace testing;
    const Words words = training() + Words{"--epochs", "1", "--device", "cuda", "--moments", "bf16", "--out"};
    const Words offload{"--offload", "optimizer"};
    must(words + Words{"offload_none"});
    EXPECT_SAYS(must(words + Words{"offload_stopped", "--stop-after", "2"} + offload).err, "; on the host ");
    must(words + Words{"offload_stopped", "--resume"});
    EXPECT_EQ(weights_of("offload_stopped/model"), weights_of("offload_none/model"));
}

TEST_F(CudaProgram, UnlearningWithEvaluationIsTheCpus) {
    using namespace testing;
    const Words command = Words{"unlearn", "--model",     "base/model",   "--method", "npo_rt", "--beta",
                                "1",       "--lr",        "1e-3",         "--epochs", "1",      "--batch-size",
                                "8",       "--save-last", "--retain-log", "retain",   "--json"} +
                          evaluation();
    const Json here = must(command + Words{"--out", "npo_cpu"}).json();
    const Result there = must(command + Words{"--out", "npo_cuda", "--device", "cuda", "--profile", "1"});
    EXPECT_SAYS(there.err, tensor::description(cuda()));
    EXPECT_SAYS(there.err, "matmul");
    const Json scores = there.json()["scores"];
    ASSERT_FALSE(scores.empty());
    EXPECT_EQ(read_json(playground() / "npo_cuda/config.json")["device_name"], tensor::description(cuda()));
    for (const auto& [name, value] : here["scores"].items()) {
        // Probabilities follow the weights, which f32 steps move to a few eps apart. ROUGE counts words, and one token
        // that flips in a near tie changes a row of few; forget quality is a rank statistic of few rows.
        const bool counts = name.find("ROUGE") != std::string::npos || name == "model_utility" ||
                            name == "forget_quality" || name == "exact_match";
        EXPECT_NEAR(scores[name].get<double>(), value.get<double>(), counts ? 0.05 : 1e-3 + 1e-3 * value.get<double>())
            << name;
    }
    const std::vector<Json> want = metrics_of("npo_cpu");
    const std::vector<Json> got = metrics_of("npo_cuda");
    ASSERT_EQ(got.size(), want.size());
    for (std::size_t i = 0; i < want.size(); ++i)
        EXPECT_NEAR(got[i]["loss"].get<double>(), want[i]["loss"].get<double>(),
                    1e-4 * std::abs(want[i]["loss"].get<double>()));
}

}  // namespace
}  // namespace uipe::unlearn
