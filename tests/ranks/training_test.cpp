// Training among ranks: the answer of one process, whatever each rank keeps; what is moved and kept; checkpoints that
// any number of ranks can read. Run by a launcher with 1, 2, 3 and 4 ranks.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "llama/safetensors.h"
#include "tensor/allocator.h"
#include "tensor/ops.h"
#include "tests/comm/ranks.h"
#include "tests/llama/models.h"
#include "unlearn/plan.h"

namespace uipe::unlearn {
namespace {

using tensor::DType;

tensor::Comm& comm() {
    static const std::unique_ptr<tensor::Comm> world = tensor::world(tensor::test::device(), true);
    return *world;
}

TrainData data() { return {llama::random_rows(25, 1), {}, llama::random_rows(7, 2), llama::random_rows(5, 4)}; }

TrainerOptions options() {
    TrainerOptions o;
    o.epochs = 13;
    o.batch_size = 6;  // of 25 rows: four steps an epoch and one of a single row, which leaves other ranks without
    o.lr = 1e-3;
    o.schedule = nn::Schedule::cosine;
    o.warmup_epochs = 1;
    return o;
}

llama::Config config_of(bool tied) {
    llama::Config config = llama::small_config();
    config.tie_word_embeddings = tied;
    return config;
}

/// A run of a fresh model, and what stays of it.
struct Session {
    llama::Llama model, reference;
    std::unique_ptr<Trainer> trainer;
    std::vector<double> losses;

    Session(const Objective& objective, DType dtype, const Distribution& ranks, bool tied = false,
            const TrainerOptions& o = options())
        : model(llama::lively_model(config_of(tied), dtype, 1)),
          reference(llama::lively_model(config_of(tied), dtype, 2)) {
        trainer = std::make_unique<Trainer>(model, &reference, objective, data(), o, ranks);
    }
    void steps(std::int64_t n) {
        for (std::int64_t i = 0; i < n; ++i) losses.push_back(trainer->run_step().loss);
    }
    llama::StateDict masters() {
        llama::StateDict out;
        const auto master = trainer->masters();
        for (const auto& [name, w] : model.weights()) out[name] = master(name).to(tensor::Device{}).clone();
        return out;
    }
};

Distribution among(int stage, DType dtype) { return {&comm(), stage, dtype, tensor::test::device()}; }

/// Largest |a - b| as a share of the largest |b|.
double apart(const llama::StateDict& a, const llama::StateDict& b) {
    double worst = 0;
    for (const auto& [name, x] : a) {
        const std::vector<double> p = test::doubles(x);
        const std::vector<double> q = test::doubles(b.at(name));
        double most = 0;
        for (std::size_t i = 0; i < p.size(); ++i) most = std::max(most, std::abs(q[i]));
        for (std::size_t i = 0; i < p.size(); ++i) worst = std::max(worst, std::abs(p[i] - q[i]) / most);
    }
    return worst;
}

bool same(const llama::StateDict& a, const llama::StateDict& b) {
    for (const auto& [name, x] : a)
        if (!test::same_bits(x, b.at(name))) return false;
    return a.size() == b.size();
}

/// Many steps at every stage against one process: losses within `tolerance`, masters within a thousand times as much,
/// since AdamW's first steps are nearly signs of gradients; and the same bits at all stages.
void expect_as_alone(const char* name, DType dtype, bool tied, double lr, double tolerance) {
    const Objective& objective = name == std::string("nll") ? fine_tuning() : unlearning_objective(name);
    TrainerOptions o = options();
    o.lr = lr;
    // Fewer on the emulator, where each takes long.
    const std::int64_t steps = tensor::test::on_cpu() ? 50 : 20;
    Session alone(objective, dtype, {}, tied, o);
    alone.steps(steps);
    std::vector<double> losses;
    llama::StateDict weights;
    for (int stage = 0; stage <= 3; ++stage) {
        SCOPED_TRACE(cat(name, tied ? ", tied" : "", ", stage ", stage, " of ", comm().size()));
        Session run(objective, dtype, among(stage, dtype), tied, o);
        run.steps(steps);
        for (std::size_t i = 0; i < run.losses.size(); ++i)
            EXPECT_NEAR(run.losses[i], alone.losses[i], tolerance * std::max(1.0, std::abs(alone.losses[i]))) << i;
        EXPECT_LE(apart(run.masters(), alone.masters()), 1e3 * tolerance);
        if (stage == 0) losses = run.losses, weights = run.masters();
        EXPECT_EQ(run.losses, losses);
        EXPECT_TRUE(same(run.masters(), weights));
    }
}

TEST(RanksTraining, IsThatOfOneProcessAtEveryStage) {
    if (tensor::test::on_cpu()) {
        expect_as_alone("grad_diff", DType::f64, false, 1e-3, 1e-10);
        expect_as_alone("kl_min", DType::f64, true, 1e-3, 1e-10);
    }
    expect_as_alone("nll", DType::f32, false, 1e-3, 1e-6);
    expect_as_alone("npo", DType::f32, true, 1e-4, 1e-6);
}

/// Steps that show a difference between ranks; fewer on the emulator, where each takes long.
std::int64_t some_steps() { return tensor::test::on_cpu() ? 7 : 3; }

void expect_method_as_alone(const Objective& objective, bool tied) {
    TrainerOptions o = options();
    o.objective = objective.defaults;
    o.objective.rmu_layer = 1;  // of two
    Session alone(objective, DType::f32, {}, tied, o);
    alone.steps(some_steps());
    std::vector<double> losses;
    llama::StateDict weights;
    for (int stage = 0; stage <= 3; ++stage) {
        SCOPED_TRACE(cat(objective.name, tied ? ", tied" : "", ", stage ", stage, " of ", comm().size()));
        Session run(objective, DType::f32, among(stage, DType::f32), tied, o);
        run.model.set_recompute(stage == 3 ? llama::Recompute::block : llama::Recompute::norm);
        run.steps(some_steps());
        for (std::size_t i = 0; i < run.losses.size(); ++i)
            EXPECT_NEAR(run.losses[i], alone.losses[i], 1e-6 * std::max(1.0, std::abs(alone.losses[i]))) << i;
        if (stage == 0) losses = run.losses, weights = run.masters();
        EXPECT_EQ(run.losses, losses);
        EXPECT_TRUE(same(run.masters(), weights));
    }
}

TEST(RanksTraining, OfEveryMethodIsThatOfOneProcessWithTheSameBitsAtEveryStage) {
    for (const Objective& objective : objectives()) {
        expect_method_as_alone(objective, false);
        if (objective.layer) expect_method_as_alone(objective, true);
    }
}

/// Steps of an adapter, whose reference shares the model's weights, and what it has become.
std::pair<std::vector<double>, llama::StateDict> adapted(const char* method, const llama::LoraConfig& lora,
                                                         const Distribution& ranks, llama::Recompute recompute) {
    const llama::Config config = config_of(false);
    llama::Llama model(config, llama::moved_weights(llama::lively_weights(config, DType::f32, 1), DType::f32,
                                                    ranks.shared() ? tensor::Device{} : tensor::test::device()));
    model.set_adapter(llama::fresh_adapter(config, lora, 3), DType::f32, tensor::test::device());
    model.set_recompute(recompute);
    llama::Llama reference = model.reference();
    Trainer trainer(model, &reference, unlearning_objective(method), data(), options(), ranks);
    std::vector<double> losses;
    for (std::int64_t i = 0; i <= some_steps(); ++i) losses.push_back(trainer.run_step().loss);
    llama::StateDict out;
    const auto master = trainer.masters();
    for (const nn::Parameter& p : model.trainable()) out[p.name] = master(p.name).to(tensor::Device{}).clone();
    return {losses, out};
}

TEST(RanksTraining, OfAnAdapterIsThatOfOneProcessAtEveryStage) {
    // The second is so small that some ranks own none of it.
    for (const llama::LoraConfig& lora :
         {llama::LoraConfig{.rank = 3, .alpha = 6, .dropout = 0.2, .targets = llama::lora_targets()},
          llama::LoraConfig{.rank = 1, .alpha = 2, .dropout = 0, .targets = {"q_proj"}}})
        for (const char* method : {"kl_min", "npo", "dpo", "rmu"}) {
            const auto [losses, weights] =
                adapted(method, lora, {nullptr, 0, DType::f32, tensor::test::device()}, llama::Recompute::norm);
            std::optional<llama::StateDict> first;
            for (int stage = 0; stage <= 3; ++stage) {
                SCOPED_TRACE(cat(method, ", rank ", lora.rank, ", stage ", stage));
                const auto [own, made] = adapted(method, lora, among(stage, DType::f32),
                                                 stage == 3 ? llama::Recompute::block : llama::Recompute::norm);
                for (std::size_t i = 0; i < own.size(); ++i)
                    EXPECT_NEAR(own[i], losses[i], 1e-6 * std::max(1.0, std::abs(losses[i]))) << i;
                EXPECT_LE(apart(made, weights), 1e-3);
                if (!first) first = made;
                EXPECT_TRUE(same(made, *first));
            }
        }
}

TEST(RanksTraining, CutsABatchIntoAnyMicroBatches) {
    // A loss that is the difference of two larger ones, of sums in another order and of weights that these have moved.
    constexpr double tolerance = 16.0 * std::numeric_limits<float>::epsilon();
    for (int stage = 0; stage <= 3; ++stage) {
        SCOPED_TRACE(cat("stage ", stage));
        Session alone(unlearning_objective("grad_diff"), DType::f32, {});
        TrainerOptions o = options();
        o.micro_batch = 1;
        Session run(unlearning_objective("grad_diff"), DType::f32, among(stage, DType::f32), false, o);
        alone.steps(7);
        run.steps(7);
        for (std::size_t i = 0; i < 7; ++i)
            EXPECT_NEAR(run.losses[i], alone.losses[i], tolerance * std::max(1.0, std::abs(alone.losses[i]))) << i;
    }
}

TEST(RanksTraining, Bf16WeightsHaveTheSameBitsAtEveryStage) {
    for (const DType moments : {DType::f32, DType::bf16}) {  // whose roundings do not depend on who makes them
        TrainerOptions o = options();
        o.adamw.moments = moments;
        std::vector<double> losses;
        llama::StateDict weights;
        for (int stage = 0; stage <= 3; ++stage) {
            Session run(unlearning_objective("kl_min"), DType::bf16, among(stage, DType::bf16), false, o);
            run.steps(12);
            if (stage == 0) losses = run.losses, weights = run.masters();
            EXPECT_EQ(run.losses, losses) << stage;
            EXPECT_TRUE(same(run.masters(), weights)) << stage;
        }
    }
}

TEST(RanksTraining, AnOffloadedOptimizerGivesTheBitsOfOneOnTheDevice) {
    if (tensor::test::on_cpu()) GTEST_SKIP() << "the optimizer is on the host already";
    for (int stage = 0; stage <= 3; ++stage) {
        TrainerOptions o = options();
        o.adamw.moments = stage % 2 == 0 ? DType::f32 : DType::bf16;
        Session there(fine_tuning(), DType::bf16, among(stage, DType::bf16), false, o);
        o.adamw.offload = true;
        Session here(fine_tuning(), DType::bf16, among(stage, DType::bf16), false, o);
        there.steps(4);
        here.steps(4);
        EXPECT_EQ(here.losses, there.losses) << stage;
        EXPECT_TRUE(same(here.masters(), there.masters())) << stage;
    }
}

/// Elements of the model's units as they are laid out: parts at multiples of 64, units at multiples of 64 N.
std::uint64_t laid_out(const std::vector<nn::Parameters>& units) {
    const auto up = [](std::int64_t n, std::int64_t step) { return (n + step - 1) / step * step; };
    std::int64_t all = 0;
    for (const nn::Parameters& unit : units) {
        std::int64_t size = 0;
        for (const nn::Parameter& p : unit) size = up(size + p.variable.value().numel(), 64);
        all += up(size, 64 * comm().size());
    }
    return static_cast<std::uint64_t>(all);
}

TEST(RanksTraining, MovesAndKeepsWhatTheFormulasSay) {
    if (comm().size() == 1) GTEST_SKIP() << "one rank moves nothing";
    for (int stage = 0; stage <= 3; ++stage) {
        SCOPED_TRACE(cat("stage ", stage));
        Session run(fine_tuning(), DType::f32, among(stage, DType::f32));
        const std::vector<nn::Parameters> units = run.model.units();
        const std::uint64_t psi = laid_out(units);
        const std::uint64_t ends = laid_out({units.front()}) + laid_out({units.back()});
        run.steps(1);
        comm().reset_traffic();
        run.steps(1);
        // Loss and stop; the squares of the gradient.
        const auto small = static_cast<std::uint64_t>(comm().size()) * (2 + (stage > 0 ? 1 : 0));
        EXPECT_EQ(comm().traffic().total().elements - small, stage < 3 ? 2 * psi : 3 * psi - ends)
            << "the embedding and the head are gathered once";
        std::uint64_t kept = 0;
        for (const auto& [name, t] : run.trainer->state()) kept += static_cast<std::uint64_t>(t.numel());
        std::uint64_t largest = 0;
        std::uint64_t all = 0;
        for (const std::string& other : comm().gather(std::to_string(kept))) {
            largest = std::max<std::uint64_t>(largest, std::stoull(other));
            all += std::stoull(other);
        }
        std::uint64_t elements = 0;
        for (const auto& [name, w] : run.model.weights()) elements += static_cast<std::uint64_t>(w.numel());
        EXPECT_EQ(all, 3 * elements * (stage == 0 ? static_cast<std::uint64_t>(comm().size()) : 1));
        const auto share = static_cast<std::uint64_t>(stage == 0 ? 1 : comm().size());
        EXPECT_LE(largest, 3 * psi / share) << "masters and two moments of a share";
        std::size_t held = 0;
        for (const auto& [name, w] : run.model.weights()) held += w.defined() ? 1 : 0;
        EXPECT_EQ(held, stage < 3 ? run.model.weights().size() : 0) << "weights between steps";
    }
}

TEST(RanksTraining, HoldsAndMovesWhatThePlanSays) {
    if (comm().size() == 1) GTEST_SKIP() << "tests/unlearn/plan_test.cpp has one rank";
    PlanRequest r;
    r.config = config_of(false);
    r.config.hidden_size = 128;
    r.config.intermediate_size = 344;
    r.config.num_layers = 4;
    r.config.vocab_size = 1013;
    r.objective = &unlearning_objective("kl_min");
    r.device = tensor::test::device();
    r.ranks = comm().size();
    r.trainer = options();
    r.trainer.epochs = 1;
    r.trainer.batch_size = 12;
    r.trainer.micro_batch = 2;
    r.data = data();
    const llama::StateDict weights = llama::random_weights(r.config, r.dtype, 1, r.device);
    for (r.zero = 0; r.zero <= 3; ++r.zero) {
        SCOPED_TRACE(cat("stage ", r.zero));
        const Plan plan = make_plan(r);
        const tensor::MemoryStats before = tensor::memory_stats(r.device);
        tensor::reset_peak(r.device);
        llama::Llama model(r.config, weights);
        llama::Llama reference(r.config, weights);
        Trainer trainer(model, &reference, *r.objective, r.data, r.trainer, among(r.zero, r.dtype));
        std::uint64_t moved = 0;
        while (trainer.step() < trainer.total_steps()) {
            comm().reset_traffic();
            if (trainer.run_step().tokens == plan.tokens) moved = comm().traffic().total().bytes;
        }
        trainer.gather_model();  // what is under way ends
        trainer.release_model();
        EXPECT_EQ(moved, plan.traffic.total().bytes);
        std::size_t peak = 0;
        const std::size_t own = tensor::memory_stats(r.device).peak - before.in_use;
        for (const std::string& other : comm().gather(std::to_string(own)))
            peak = std::max<std::size_t>(peak, std::stoull(other));
        EXPECT_NEAR(static_cast<double>(plan.memory.peak), static_cast<double>(peak), 0.01 * static_cast<double>(peak));
    }
}

TEST(RanksTraining, ACheckpointResumesOnAnyNumberOfRanks) {
    std::optional<llama::TemporaryFolder> own;
    if (comm().rank() == 0) own.emplace();
    const fs::path folder = comm().gather(own ? (*own / "").string() : "").front();
    const Objective& objective = unlearning_objective("npo_rt");
    for (const DType dtype : {DType::f32, DType::bf16}) {
        SCOPED_TRACE(tensor::name_of(dtype));
        Session straight(objective, dtype, among(2, dtype));
        straight.steps(4);
        straight.trainer->save(folder / "shared");
        straight.steps(4);
        const llama::StateDict expected = straight.masters();
        straight.trainer->save(folder / "end");
        for (const int stage : {0, 1, 3}) {
            Session again(objective, dtype, among(stage, dtype));
            again.trainer->load(folder / "shared");
            again.steps(4);
            EXPECT_TRUE(same(again.masters(), expected)) << "stage " << stage;
        }
        // Alone, from what the ranks saved, and back.
        Session alone(objective, dtype, {});
        alone.trainer->load(folder / "end");
        EXPECT_TRUE(same(alone.masters(), expected));
        if (comm().rank() == 0) alone.trainer->save(folder / "alone");
        comm().barrier();
        Session back(objective, dtype, among(3, dtype));
        back.trainer->load(folder / "alone");
        EXPECT_EQ(back.trainer->step(), 8);
        EXPECT_TRUE(same(back.masters(), expected));
        comm().barrier();
        if (dtype == DType::bf16) continue;  // whose losses are apart by more than the order of sums
        Session resumed(objective, dtype, {});
        resumed.trainer->load(folder / "shared");
        resumed.steps(4);
        for (std::size_t i = 0; i < 4; ++i)
            EXPECT_NEAR(resumed.losses[i], straight.losses[i + 4],
                        1e-6 * std::max(1.0, std::abs(straight.losses[i + 4])));
        comm().barrier();
    }
}

TEST(RanksTraining, ADamagedFileOfAnyRankIsNamedByAll) {
    std::optional<llama::TemporaryFolder> own;
    if (comm().rank() == 0) own.emplace();
    const fs::path folder = comm().gather(own ? (*own / "").string() : "").front();
    Session run(fine_tuning(), DType::f32, among(1, DType::f32));
    run.steps(1);
    run.trainer->save(folder / "state");
    const std::string last = cat("state-0000", comm().size(), "-of-0000", comm().size(), ".safetensors");
    if (comm().rank() == 0) {
        std::string bytes = read_file(folder / "state" / last);
        bytes[bytes.size() - 9] = static_cast<char>(bytes[bytes.size() - 9] ^ 1);
        write_file(folder / "state" / last, bytes);
    }
    comm().barrier();
    const std::string message = llama::message_of([&] { run.trainer->load(folder / "state"); });
    EXPECT_SAYS(message, last);
    EXPECT_SAYS(message, "damaged");
    comm().barrier();
}

}  // namespace
}  // namespace uipe::unlearn
