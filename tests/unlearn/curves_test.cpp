// bf16 learns as f32 does: the training curves of a small model on the synthetic world.
#include <gtest/gtest.h>

#include <cmath>

#include "llama/tokenizer.h"
#include "tests/llama/models.h"
#include "unlearn/trainer.h"
#include "unlearn/world/world.h"

namespace uipe::unlearn {
namespace {

using tensor::DType;

/// The demo's world with fewer people: 945 rows of pretraining text, V 600.
struct World {
    llama::TemporaryFolder folder;
    std::vector<llama::Sequence> rows;
    std::int64_t vocab_size = 0;

    World() {
        WorldOptions options;
        options.authors = 10;
        options.pretraining_people = 20;
        options.related_people = 20;
        options.combinations = 2;
        options.vocab_size = 600;
        write_world(options, folder / "world");
        const llama::Tokenizer tokenizer = llama::Tokenizer::load(folder / "world/tokenizer.model");
        vocab_size = tokenizer.vocab_size();
        rows = read_sequences(folder / "world/pretrain.jsonl", tokenizer, llama::prompt_template("llama2-chat"), 256);
    }
};

llama::Config config_for(const World& world) {
    llama::Config c;
    c.hidden_size = 64;
    c.intermediate_size = 168;
    c.num_layers = 2;
    c.num_heads = 4;
    c.num_kv_heads = 4;
    c.head_dim = 16;
    c.vocab_size = world.vocab_size;
    c.max_position_embeddings = 256;
    return c;
}

constexpr std::int64_t steps = 200;

/// The loss of each step of a pretraining run.
std::vector<double> curve(const World& world, DType dtype, double beta2 = 0.98, DType moments = DType::f32) {
    const llama::Config config = config_for(world);
    llama::Llama model(config, llama::random_weights(config, dtype, 1));
    TrainerOptions options;
    options.batch_size = 16;
    options.lr = 1e-3;
    options.schedule = nn::Schedule::constant;
    options.warmup_epochs = 0.25;
    options.adamw.weight_decay = 0;
    options.adamw.beta2 = beta2;
    options.adamw.moments = moments;
    Trainer trainer(model, nullptr, fine_tuning(), {world.rows, {}, {}}, options);
    std::vector<double> losses;
    while (trainer.step() < steps) losses.push_back(trainer.run_step().loss);
    return losses;
}

TEST(Curves, Bf16StaysWithinOnePercentOfF32) {
    const test::Threads one(1);
    const World world;
    const std::vector<double> wide = curve(world, DType::f32);
    const std::vector<double> narrow = curve(world, DType::bf16);
    EXPECT_LT(wide.back(), 0.7 * wide.front()) << "nothing was learned, so nothing is compared";
    double mean = 0.0;
    for (std::size_t i = 0; i < wide.size(); ++i) {
        const double off = narrow[i] / wide[i] - 1.0;
        EXPECT_LE(std::abs(off), 0.01) << "step " << i + 1 << ": " << narrow[i] << " in bf16, " << wide[i] << " in f32";
        mean += off / static_cast<double>(wide.size());
    }
    // Roundings have no direction; measured are a mean of 0.01 % and single steps up to 0.1 %.
    EXPECT_LE(std::abs(mean), 0.001);
}

TEST(Curves, MomentsOfBf16StayWithinOnePercentOfF32) {
    const test::Threads one(1);
    const World world;
    for (const double beta2 : {0.98, 0.999}) {
        const std::vector<double> wide = curve(world, DType::f32, beta2);
        const std::vector<double> narrow = curve(world, DType::f32, beta2, DType::bf16);
        EXPECT_LT(wide.back(), 0.7 * wide.front()) << "nothing was learned, so nothing is compared";
        double most = 0.0;
        double mean = 0.0;
        for (std::size_t i = 0; i < wide.size(); ++i) {
            const double off = narrow[i] / wide[i] - 1.0;
            most = std::max(most, std::abs(off));
            mean += off / static_cast<double>(wide.size());
        }
        // Measured are 0.06 % and 0.003 %.
        EXPECT_LE(most, 0.01) << "beta2 " << beta2;
        EXPECT_LE(std::abs(mean), 0.001) << "beta2 " << beta2;
    }
}

}  // namespace
}  // namespace uipe::unlearn
