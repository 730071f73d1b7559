// The training loop: the answer does not depend on how a batch is cut or a run is interrupted.
#include "unlearn/trainer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "llama/weights.h"
#include "tensor/allocator.h"
#include "tensor/base/json.h"
#include "tests/llama/models.h"

namespace uipe::unlearn {
namespace {

using llama::TemporaryFolder;
using tensor::DType;

llama::Llama model_of(DType dtype, std::uint64_t seed) {
    return llama::lively_model(llama::small_config(), dtype, seed);
}

TrainerOptions plain_options() {
    TrainerOptions o;
    o.epochs = 3;
    o.lr = 1e-3;
    o.schedule = nn::Schedule::constant;
    o.warmup_epochs = 0;
    return o;
}

TrainData data_of(std::size_t rows) {
    return {llama::random_rows(rows, 1), {}, llama::random_rows(7, 2), llama::random_rows(5, 4)};
}

class Training : public ::testing::Test {
    const test::Threads one_{1};
};

/// l2 norm of a - b over all tensors, as a share of that of b - origin.
double distance(const llama::StateDict& a, const llama::StateDict& b, const llama::StateDict& origin = {}) {
    double apart = 0;
    double all = 0;
    for (const auto& [name, x] : a) {
        const std::vector<double> p = test::doubles(x);
        const std::vector<double> q = test::doubles(b.at(name));
        const std::vector<double> o = origin.empty() ? std::vector<double>(q.size()) : test::doubles(origin.at(name));
        for (std::size_t i = 0; i < p.size(); ++i) {
            apart += (p[i] - q[i]) * (p[i] - q[i]);
            all += (q[i] - o[i]) * (q[i] - o[i]);
        }
    }
    return std::sqrt(apart / all);
}

struct Outcome {
    StepInfo first;
    llama::StateDict gradient;  // of the first step, times 1 - beta1
    llama::StateDict weights;   // after all steps
};

Outcome run_in_micro_batches(const Objective& objective, DType dtype, std::int64_t micro_batch) {
    const TemporaryFolder folder;
    llama::Llama model = model_of(dtype, 1);
    llama::Llama reference = model_of(dtype, 2);
    TrainerOptions options = plain_options();
    options.micro_batch = micro_batch;
    options.max_grad_norm = 0;
    Trainer trainer(model, &reference, objective, data_of(32), options);
    Outcome out;
    out.first = trainer.run_step();
    for (const auto& [name, t] : trainer.state())
        if (name.starts_with("m.")) out.gradient[name] = t.clone();
    while (trainer.step() < trainer.total_steps()) trainer.run_step();
    const auto master = trainer.masters();
    for (const auto& [name, w] : model.weights()) out.weights[name] = master(name).clone();
    return out;
}

TEST_F(Training, TheCutOfABatchChangesNothing) {
    for (const Objective& objective : objectives())
        for (const DType dtype : {DType::f64, DType::f32}) {
            const Outcome whole = run_in_micro_batches(objective, dtype, 32);
            EXPECT_EQ(whole.first.steps, 3);
            EXPECT_GT(whole.first.grad_norm, 1e-2);
            for (const std::int64_t micro_batch : {8, 5, 1}) {
                SCOPED_TRACE(cat(objective.name, " ", tensor::name_of(dtype), " in ", micro_batch));
                const Outcome cut = run_in_micro_batches(objective, dtype, micro_batch);
                // Sums over some hundred tokens in another order: as many half epsilons, which add up as their root
                // does.
                const double tolerance = dtype == DType::f64 ? 1e-12 : 16.0 * std::numeric_limits<float>::epsilon();
                EXPECT_NEAR(cut.first.loss, whole.first.loss, tolerance * std::max(1.0, std::abs(whole.first.loss)));
                EXPECT_NEAR(cut.first.grad_norm, whole.first.grad_norm, tolerance * whole.first.grad_norm);
                EXPECT_EQ(cut.first.tokens, whole.first.tokens);
                EXPECT_LE(distance(cut.gradient, whole.gradient), tolerance);
                // AdamW's first steps are nearly signs of gradients, so an element that is all rounding moves freely;
                // in f64 there is none.
                const bool exact = dtype == DType::f64;
                EXPECT_LE(distance(cut.weights, whole.weights, model_of(dtype, 1).weights()), exact ? 1e-6 : 0.05);
            }
        }
}

TEST_F(Training, TwentyStepsArePyTorchs) {
    const fs::path fixtures = FIXTURES;
    const Json expected = read_json(fixtures / "adamw.json");
    const fs::path folder = fixtures / "llama/grouped";
    const llama::Config config = llama::read_config(folder);
    llama::Llama model(config, llama::own_weights(llama::read_weights(folder, config), DType::f64));
    TrainData data;
    for (const Json& batch : expected["batches"])
        for (const Json& s : batch)
            data.rows.push_back({s["ids"].get<std::vector<std::int32_t>>(), s["first_target"].get<std::int64_t>()});
    const Json& settings = expected["settings"];
    TrainerOptions options;
    options.epochs = 1;
    options.batch_size = 4;
    options.micro_batch = 3;
    options.lr = settings["lr"];
    options.warmup_epochs = settings["warmup_steps"].get<double>() / settings["steps"].get<double>();
    options.adamw = {settings["beta1"], settings["beta2"], settings["eps"], settings["weight_decay"], true};
    options.max_grad_norm = settings["max_grad_norm"];
    options.shuffle = false;
    Trainer trainer(model, nullptr, fine_tuning(), data, options);
    for (std::size_t k = 0; k < 20; ++k) {
        const StepInfo info = trainer.run_step();
        EXPECT_NEAR(info.loss, expected["loss_f64"][k].get<double>(), 1e-9) << k;
        EXPECT_NEAR(info.grad_norm, expected["grad_norm_f64"][k].get<double>(), 1e-8) << k;
        EXPECT_NEAR(info.lr, expected["lr"][k].get<double>(), 1e-15) << k;
    }
    EXPECT_EQ(trainer.step(), trainer.total_steps());
    const auto master = trainer.masters();
    for (const auto& [name, value] : model.weights()) {
        const Tensor w = master(name);
        const double norm = expected["final_f64"][name]["norm"];
        EXPECT_NEAR(std::sqrt(tensor::sum_of_squares(w)), norm, 1e-9 * norm) << name;
    }
}

llama::StateDict state_of(const Trainer& trainer, const fs::path& folder) {
    trainer.save(folder);
    return llama::read_safetensors(folder / "state-00001-of-00001.safetensors");
}

/// A run cut after `stop` steps and taken up by a fresh trainer with other weights equals the run that was not.
void expect_resumed(const Objective& objective, DType dtype, std::int64_t stop) {
    SCOPED_TRACE(cat(objective.name, " ", tensor::name_of(dtype), " stopped after ", stop));
    const TemporaryFolder folder;
    llama::Llama reference = model_of(dtype, 2);
    TrainerOptions options = plain_options();
    options.batch_size = 4;
    options.micro_batch = 3;
    options.warmup_epochs = 1;
    options.schedule = nn::Schedule::cosine;
    options.replay_ratio = objective.unlearns ? 0.0 : 0.5;
    TrainData data = data_of(10);
    if (!objective.unlearns) data.replay = llama::random_rows(9, 3);

    llama::Llama straight = model_of(dtype, 1);
    Trainer uninterrupted(straight, &reference, objective, data, options);
    std::vector<StepInfo> infos;
    while (uninterrupted.step() < uninterrupted.total_steps()) infos.push_back(uninterrupted.run_step());

    llama::Llama begun = model_of(dtype, 1);
    Trainer first(begun, &reference, objective, data, options);
    for (std::int64_t i = 0; i < stop; ++i) first.run_step();
    first.save(folder / "checkpoint");
    llama::Llama other = model_of(dtype, 9);
    Trainer second(other, &reference, objective, data, options);
    second.load(folder / "checkpoint");
    EXPECT_EQ(second.step(), stop);
    while (second.step() < second.total_steps()) {
        const StepInfo& expected = infos.at(static_cast<std::size_t>(second.step()));
        const StepInfo info = second.run_step();
        EXPECT_EQ(info.loss, expected.loss) << info.step;
        EXPECT_EQ(info.grad_norm, expected.grad_norm) << info.step;
        EXPECT_EQ(info.lr, expected.lr) << info.step;
        EXPECT_EQ(info.epoch, expected.epoch) << info.step;
    }
    const llama::StateDict expected = state_of(uninterrupted, folder / "a");
    const llama::StateDict got = state_of(second, folder / "b");
    // Weight and two moments; of bf16 also what the master has beyond the weight.
    EXPECT_EQ(expected.size(), (dtype == DType::bf16 ? 4 : 3) * straight.parameters().size());
    ASSERT_EQ(got.size(), expected.size());
    for (const auto& [name, t] : expected) EXPECT_TRUE(test::same_bits(got.at(name), t)) << name;
    const llama::StateDict weights = straight.weights();
    for (const auto& [name, t] : other.weights()) EXPECT_TRUE(test::same_bits(t, weights.at(name))) << name;
}

TEST_F(Training, AResumedRunIsTheUninterruptedOneBitForBit) {
    // 10 rows in steps of 4: an epoch is 3 steps, 4 with replayed rows.
    for (const Objective& objective : objectives()) {
        const std::int64_t epoch = objective.unlearns ? 3 : 4;
        for (const std::int64_t stop : {std::int64_t{0}, epoch - 1, epoch, 2 * epoch + 1})
            expect_resumed(objective, DType::f32, stop);
        expect_resumed(objective, DType::bf16, epoch + 1);
    }
}

#if !defined(__SANITIZE_ADDRESS__)  // which gets every block back at once
/// Rows of one length, so that every step asks for the same memory.
std::vector<llama::Sequence> rows_of_one_length(const llama::Config& config, std::size_t rows, std::size_t length) {
    std::vector<llama::Sequence> out;
    for (std::size_t i = 0; i < rows; ++i) {
        llama::Sequence s{{config.bos_token_id}, 20};
        while (s.ids.size() < length)
            s.ids.push_back(
                static_cast<std::int32_t>((s.ids.size() * 31 + i * 17) % static_cast<std::size_t>(config.vocab_size)));
        out.push_back(std::move(s));
    }
    return out;
}

/// What the allocator says after each of five steps.
std::vector<tensor::MemoryStats> memory_of_steps(const Objective& objective, DType dtype, const char* recompute) {
    llama::Config config = llama::small_config();
    config.hidden_size = 96;
    config.intermediate_size = 256;
    config.head_dim = 24;
    config.vocab_size = 1000;
    config.max_position_embeddings = 128;
    tensor::release_cache();
    tensor::reset_peak();
    llama::Llama model(config, llama::random_weights(config, dtype, 1));
    model.set_recompute(llama::recompute_named(recompute));
    llama::Llama reference(config, llama::random_weights(config, dtype, 2));
    TrainerOptions options = plain_options();
    options.batch_size = 8;
    options.micro_batch = 4;
    const auto rows = rows_of_one_length(config, 32, 90);
    Trainer trainer(model, &reference, objective, {rows, {}, rows, {rows.begin(), rows.begin() + 1}}, options);
    std::vector<tensor::MemoryStats> out;
    for (int step = 0; step < 5; ++step) {
        trainer.run_step();
        out.push_back(tensor::memory_stats());
    }
    return out;
}

void expect_no_new_memory(const Objective& objective, DType dtype, const char* recompute) {
    SCOPED_TRACE(cat(objective.name, " ", tensor::name_of(dtype), ", ", recompute));
    const std::vector<tensor::MemoryStats> after = memory_of_steps(objective, dtype, recompute);
    EXPECT_EQ(after.back().allocations, after[1].allocations);
    EXPECT_EQ(after.back().reserved, after[1].reserved);
    EXPECT_EQ(after.back().in_use, after[1].in_use) << "what a step leaves behind";
    EXPECT_EQ(after.back().peak, after[1].peak);
}

TEST_F(Training, AfterItsSecondStepNothingIsAskedOfTheSystem) {
    for (const Objective& objective : objectives())
        for (const DType dtype : {DType::f32, DType::bf16}) expect_no_new_memory(objective, dtype, "none");
    for (const char* method : {"kl_min", "rmu"})  // whole logits and a layer's outputs
        for (const DType dtype : {DType::f32, DType::bf16})
            for (const char* recompute : llama::recompute_modes)
                expect_no_new_memory(unlearning_objective(method), dtype, recompute);
}
#endif

TEST_F(Training, ACheckpointOfAnotherRunIsRefused) {
    const TemporaryFolder folder;
    llama::Llama model = model_of(DType::f32, 1);
    TrainerOptions options = plain_options();
    options.batch_size = 4;
    Trainer trainer(model, nullptr, fine_tuning(), data_of(10), options);
    for (int i = 0; i < 5; ++i) trainer.run_step();
    trainer.save(folder / "checkpoint");

    llama::Config wider = llama::small_config();
    wider.intermediate_size += 4;
    llama::Llama another = llama::lively_model(wider, DType::f32);
    Trainer of_another(another, nullptr, fine_tuning(), data_of(10), options);
    EXPECT_SAYS(llama::message_of([&] { of_another.load(folder / "checkpoint"); }), "model.layers.0.mlp");

    llama::Config deeper = llama::small_config();
    ++deeper.num_layers;
    llama::Llama deep = llama::lively_model(deeper, DType::f32);
    Trainer of_deep(deep, nullptr, fine_tuning(), data_of(10), options);
    EXPECT_SAYS(llama::message_of([&] { of_deep.load(folder / "checkpoint"); }), "lacks");

    llama::Llama same = model_of(DType::f32, 1);
    Trainer of_more_rows(same, nullptr, fine_tuning(), data_of(30), options);
    EXPECT_SAYS(llama::message_of([&] { of_more_rows.load(folder / "checkpoint"); }), "--batch-size");

    options.epochs = 1;
    Trainer shorter(same, nullptr, fine_tuning(), data_of(10), options);
    EXPECT_SAYS(llama::message_of([&] { shorter.load(folder / "checkpoint"); }), "--epochs");

    const auto with_state = [&](const char* text) {
        write_file(folder / "checkpoint/state.json", text);
        return llama::message_of([&] { trainer.load(folder / "checkpoint"); });
    };
    for (const char* text :
         {"[]", "{}", R"({"step": -1, "steps_per_epoch": 3})", R"({"step": "5", "steps_per_epoch": 3})",
          R"({"step": 18446744073709551615, "steps_per_epoch": 3})"})
        EXPECT_SAYS(with_state(text), (folder / "checkpoint").string());
    EXPECT_SAYS(with_state("{\"step\" 5}"), "byte");
    for (const char* text : {"{}", R"({"step": -1, "steps_per_epoch": 3, "data": "", "reference_logp": []})"}) {
        write_checkpoint(folder / "whole", trainer.state(), parse_json(text, "a state"));
        EXPECT_SAYS(llama::message_of([&] { trainer.load(Checkpoint(folder / "whole")); }), "needs the numbers");
    }
}

TEST_F(Training, ALossThatIsNotFiniteStopsTheRunAndNamesTheStep) {
    llama::Llama model = model_of(DType::f32, 1);
    TrainerOptions options = plain_options();
    options.lr = 1e30;
    Trainer trainer(model, nullptr, fine_tuning(), data_of(10), options);
    trainer.run_step();
    const std::string message = llama::message_of<Error>([&] { trainer.run_step(); });
    EXPECT_SAYS(message, "step 2");
    EXPECT_SAYS(message, "--lr");
    EXPECT_EQ(trainer.step(), 1) << "the bad step is not taken";
}

TEST_F(Training, DataThatAnObjectiveLacksIsAnInputError) {
    llama::Llama model = model_of(DType::f32, 1);
    const TrainerOptions options = plain_options();
    const auto refusal = [&](const Objective& objective, TrainData data) {
        return llama::message_of([&] { Trainer(model, &model, objective, std::move(data), options); });
    };
    EXPECT_SAYS(refusal(unlearning_objective("ga"), {{}, {}, llama::random_rows(2, 1)}), "forget set is empty");
    EXPECT_SAYS(refusal(fine_tuning(), {}), "no training data");
    EXPECT_SAYS(refusal(unlearning_objective("npo_rt"), {llama::random_rows(2, 1), {}, {}}), "--retain");
    for (const char* method : {"dpo", "idk"})
        EXPECT_SAYS(refusal(unlearning_objective(method), {llama::random_rows(2, 1), {}, llama::random_rows(2, 1), {}}),
                    "--idk");
}

TEST_F(Training, AnEpochIsAllRowsAndTheReplayedOnes) {
    llama::Llama model = model_of(DType::f32, 1);
    TrainerOptions options = plain_options();
    options.batch_size = 4;
    const auto steps = [&](double ratio, std::size_t replay) {
        options.replay_ratio = ratio;
        TrainData data = data_of(10);
        data.replay = llama::random_rows(replay, 3);
        return Trainer(model, nullptr, fine_tuning(), data, options).steps_per_epoch();
    };
    EXPECT_EQ(steps(0, 5), 3);
    EXPECT_EQ(steps(0.5, 50), 4);  // 15 rows
    EXPECT_EQ(steps(1, 50), 5);    // 20 rows
    EXPECT_EQ(steps(9, 6), 4);     // 16 rows: no more than there are
    EXPECT_EQ(steps(1, 0), 3);
}

}  // namespace
}  // namespace uipe::unlearn
