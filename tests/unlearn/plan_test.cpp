// A plan against the run that it plans: the peak of the allocator, class by class.
#include "unlearn/plan.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <limits>

#include "llama/presets.h"
#include "tests/llama/models.h"
#include "unlearn/prediction.h"

namespace uipe::unlearn {
namespace {

using tensor::DType;
using tensor::MemoryClass;
using tensor::MemoryScope;

struct Setting {
    std::string name;
    PlanRequest request;
    int threads = 1;
};

llama::Config model_of(std::int64_t C, std::int64_t F, std::int64_t L, std::int64_t H, std::int64_t K, std::int64_t D,
                       std::int64_t V, bool tied) {
    llama::Config c;
    c.hidden_size = C;
    c.intermediate_size = F;
    c.num_layers = L;
    c.num_heads = H;
    c.num_kv_heads = K;
    c.head_dim = D;
    c.vocab_size = V;
    c.tie_word_embeddings = tied;
    return c;
}

/// Rows of random ids, of `least` to `most` tokens, some of them prompt.
std::vector<llama::Sequence> rows(const llama::Config& config, std::size_t n, std::uint64_t least, std::uint64_t most,
                                  std::uint64_t seed) {
    tensor::Random random(seed, 0);
    std::vector<llama::Sequence> out;
    for (std::size_t r = 0; r < n; ++r) {
        llama::Sequence s;
        const std::uint64_t length = least + random.below(most - least + 1);
        for (std::uint64_t i = 0; i < length; ++i)
            s.ids.push_back(static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(config.vocab_size))));
        s.first_target = 1 + static_cast<std::int64_t>(random.below(length - 1));
        out.push_back(std::move(s));
    }
    return out;
}

Setting setting(const std::string& method, const llama::Config& config, DType dtype, bool recompute, std::int64_t batch,
                std::int64_t micro_batch, std::uint64_t least, std::uint64_t most) {
    Setting s;
    s.name = cat(method, " ", tensor::name_of(dtype), recompute ? " recompute" : "", " batch ", batch, " by ",
                 micro_batch, " of ", least, " to ", most, " tokens");
    PlanRequest& r = s.request;
    r.config = config;
    r.objective = method == "nll" ? &fine_tuning() : &unlearning_objective(method);
    r.dtype = dtype;
    r.recompute = recompute ? llama::Recompute::block : llama::Recompute::norm;
    r.trainer.epochs = 2;
    r.trainer.batch_size = batch;
    r.trainer.micro_batch = micro_batch;
    r.data = {rows(config, 21, least, most, 1), {}, rows(config, 13, least, most, 2), rows(config, 3, 9, 30, 5)};
    return s;
}

std::vector<Setting> settings() {
    const llama::Config odd = model_of(57, 133, 3, 5, 1, 10, 1013, false);
    const llama::Config wide = model_of(264, 700, 2, 6, 2, 44, 515, true);
    const llama::Config deep = model_of(64, 172, 9, 4, 4, 16, 997, false);
    const llama::Config vast = model_of(40, 104, 2, 2, 2, 20, 32000, true);
    std::vector<Setting> all{
        setting("nll", odd, DType::f32, false, 8, 0, 20, 90),
        setting("nll", wide, DType::bf16, true, 8, 2, 20, 90),
        setting("nll", deep, DType::f32, true, 7, 3, 100, 300),
        setting("nll", vast, DType::bf16, false, 4, 0, 200, 600),
        setting("ga", deep, DType::bf16, false, 5, 1, 5, 60),
        setting("grad_diff", odd, DType::f32, false, 6, 4, 30, 120),
        setting("kl_min", wide, DType::f32, false, 8, 4, 40, 80),
        setting("kl_min", vast, DType::bf16, true, 4, 2, 30, 60),
        setting("npo", deep, DType::f32, false, 8, 8, 10, 40),
        setting("npo", wide, DType::bf16, true, 3, 1, 3, 300),
        setting("npo_rt", odd, DType::bf16, true, 8, 5, 64, 65),
        setting("kl_min", deep, DType::f32, true, 4, 1, 100, 200),
        setting("dpo_rt", odd, DType::f32, false, 6, 4, 30, 120),
        setting("idk", wide, DType::bf16, false, 6, 3, 20, 90),
        setting("satimp", wide, DType::f32, true, 8, 4, 40, 80),
        setting("undial", vast, DType::bf16, false, 4, 2, 30, 60),
        setting("ceu", odd, DType::f32, false, 6, 3, 30, 120),
        setting("rmu", deep, DType::bf16, false, 6, 3, 30, 120),
    };
    all[6].request.maps_weights = true;
    all[7].request.trainer.objective.kl_on_answers = true;
    all[3].threads = all[9].threads = 2;
    for (const auto& [method, what] : {std::pair("nll", llama::Recompute::none),
                                       {"kl_min", llama::Recompute::mlp},
                                       {"npo", llama::Recompute::norm}}) {
        all.push_back(setting(method, wide, DType::f32, false, 6, 3, 30, 90));
        all.back().name += cat(", ", llama::name_of(what));
        all.back().request.recompute = what;
        all.push_back(setting(method, deep, DType::f32, false, 6, 3, 30, 90));
        all.back().name += cat(", ", llama::name_of(what), ", an adapter");
        all.back().request.recompute = what;
        all.back().request.maps_weights = method != std::string("npo");
        all.back().request.lora = {.rank = 3, .alpha = 6, .dropout = 0.1, .targets = llama::lora_targets()};
    }
    all[5].request.data.replay = rows(odd, 9, 200, 210, 3);
    return all;
}

/// What the allocator counts in the run itself.
tensor::MemoryStats measured(const PlanRequest& r) {
    const auto weights = [&](MemoryClass c) {
        const MemoryScope scope(c);
        return llama::random_weights(r.config, r.dtype, 1);
    };
    llama::StateDict mapped;
    if (r.maps_weights) mapped = weights(MemoryClass::reference);
    const tensor::MemoryStats before = tensor::memory_stats();
    tensor::reset_peak();
    llama::Llama model(r.config, r.lora.rank > 0 && r.maps_weights ? mapped : weights(MemoryClass::weights));
    model.set_recompute(r.recompute);
    std::unique_ptr<llama::Llama> reference;
    const bool compares = r.objective->reference_model || r.objective->reference_rows;
    if (r.lora.rank > 0) {
        const MemoryScope scope(MemoryClass::weights);
        model.set_adapter(llama::fresh_adapter(r.config, r.lora, 1));
        if (compares) reference = std::make_unique<llama::Llama>(model.reference());
    } else if (compares)
        reference = std::make_unique<llama::Llama>(r.config, r.maps_weights ? mapped : weights(MemoryClass::reference));
    Trainer trainer(model, reference.get(), *r.objective, r.data, r.trainer);
    if (!r.objective->reference_model) reference.reset();
    while (trainer.step() < trainer.total_steps()) trainer.run_step();
    tensor::MemoryStats stats = tensor::memory_stats();
    stats.peak -= before.in_use;
    for (std::size_t i = 0; i < stats.at_peak.size(); ++i) stats.at_peak[i] -= before.by_class[i];
    return stats;
}

TEST(Plan, IsTheMeasuredPeakOfTheRun) {
    ASSERT_GE(settings().size(), 10U);
    for (const Setting& s : settings()) {
        SCOPED_TRACE(s.name);
        const test::Threads threads(s.threads);
        const Plan plan = make_plan(s.request);
        const tensor::MemoryStats run = measured(s.request);
        const auto peak = static_cast<double>(run.peak);
        std::printf("%-70s %12zu %12zu %+.3f %%  %s\n", s.name.c_str(), plan.memory.peak, run.peak,
                    100.0 * (static_cast<double>(plan.memory.peak) / peak - 1.0), run.place_of_peak.c_str());
        // The promise of a plan. What is left are scalars that only a device brings to the host.
        EXPECT_NEAR(static_cast<double>(plan.memory.peak), peak, 0.01 * peak);
        EXPECT_EQ(plan.memory.place_of_peak, run.place_of_peak);
        for (std::size_t i = 0; i < run.at_peak.size(); ++i)
            EXPECT_NEAR(static_cast<double>(plan.memory.at_peak[i]), static_cast<double>(run.at_peak[i]), 0.01 * peak)
                << tensor::name_of(static_cast<MemoryClass>(i));
        EXPECT_EQ(tensor::memory_stats(tensor::meta({})).in_use, 0U);
    }
}

std::size_t at_peak(const Plan& plan, MemoryClass c) { return plan.memory.at_peak[static_cast<std::size_t>(c)]; }

PlanRequest llama2_7b() {
    PlanRequest r;
    r.config = llama::preset("llama2-7b");
    r.dtype = DType::bf16;
    r.device = {tensor::Device::Kind::cuda};
    r.recompute = llama::Recompute::block;
    r.trainer.epochs = 1;
    r.trainer.batch_size = 32;
    r.trainer.micro_batch = 4;
    r.data = synthetic_data(r.config, 32, 512, 511);
    return r;
}

TEST(Plan, SevenBillionParametersArePlannedInSecondsAndFitOneGpuOf141GB) {
    const PlanRequest request = llama2_7b();
    const auto start = std::chrono::steady_clock::now();
    const std::size_t host = tensor::memory_stats().in_use;
    const Plan plan = make_plan(request, chip_named("h200").roofs(DType::bf16));
    EXPECT_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(), 10.0);
    EXPECT_LT(tensor::memory_stats().in_use, host + (1U << 20));
    const auto parameters = static_cast<std::size_t>(llama::parameter_count(request.config));
    EXPECT_EQ(at_peak(plan, MemoryClass::weights), 2 * parameters);
    EXPECT_EQ(at_peak(plan, MemoryClass::masters), 2 * parameters);
    EXPECT_EQ(at_peak(plan, MemoryClass::moments), 8 * parameters);
    EXPECT_EQ(at_peak(plan, MemoryClass::gradients), 4 * parameters);
    EXPECT_LE(plan.needed(), 141'000'000'000U);
    EXPECT_GT(plan.needed(), 107'000'000'000U);
    // 6 FLOPs a parameter and token, a third more where blocks are recomputed, the embedding less; attention more.
    const double tokens = 32 * 511;
    EXPECT_EQ(plan.tokens, 32 * 511);
    const double products = 8.0 * static_cast<double>(parameters) * tokens;
    EXPECT_GT(plan.flops(), 0.95 * products);
    EXPECT_LT(plan.flops(), 1.1 * products);
}

TEST(Plan, MomentsInBf16AndAnOffloadedOptimizerSaveWhatTheyShould) {
    PlanRequest request = llama2_7b();
    const auto parameters = static_cast<std::size_t>(llama::parameter_count(request.config));
    const Plan wide = make_plan(request);
    EXPECT_EQ(wide.host, 0U);
    for (const DType moments : {DType::f32, DType::bf16}) {
        request.trainer.adamw.moments = moments;
        request.trainer.adamw.offload = false;
        const Plan plan = make_plan(request);
        const std::size_t bytes = moments == DType::bf16 ? 4 : 8;
        EXPECT_EQ(at_peak(plan, MemoryClass::moments), bytes * parameters);
        EXPECT_EQ(wide.memory.peak - plan.memory.peak, (8 - bytes) * parameters);
        request.trainer.adamw.offload = true;
        const std::size_t host = tensor::memory_stats().in_use;
        const Plan away = make_plan(request);
        EXPECT_LT(tensor::memory_stats().in_use, host + (1U << 20));
        EXPECT_EQ(at_peak(away, MemoryClass::moments), 0U);
        EXPECT_EQ(at_peak(away, MemoryClass::masters), 0U);
        EXPECT_EQ(plan.memory.peak - away.memory.peak, (2 + bytes) * parameters);
        // On the host: these, and two places each for a gradient and a weight of the largest, 32000 by 4096.
        EXPECT_NEAR(static_cast<double>(away.host),
                    static_cast<double>((4 + bytes) * parameters + 2 * 6 * std::size_t{32000} * 4096), 1e6);
    }
    request.device = {};
    EXPECT_SAYS(llama::message_of([&] { make_plan(request); }), "is for --device cuda");
}

TEST(Plan, WhatDoesNotFitIsRefusedWithTheNearestSettingsThatDo) {
    PlanRequest request = llama2_7b();
    request.recompute = llama::Recompute::norm;
    request.trainer.micro_batch = 0;
    const Plan plan = make_plan(request);
    EXPECT_GT(plan.needed(), 130'000'000'000U);
    const std::optional<Fit> fit = nearest_fit(request, 130'000'000'000U);
    ASSERT_TRUE(fit.has_value());
    EXPECT_LE(fit->plan.needed(), 130'000'000'000U);
    const std::string said = llama::message_of([&] { check_fits(plan, request, 130'000'000'000U); });
    EXPECT_SAYS(said, "it fits with " + fit->flags);
    EXPECT_SAYS(said, "130.0 GB");
    EXPECT_SAYS(llama::message_of([&] { check_fits(plan, request, 80'000'000'000U); }), "with --offload optimizer");
    EXPECT_SAYS(llama::message_of([&] { check_fits(plan, request, 25'000'000'000U); }), "with --lora-rank 4");
    EXPECT_SAYS(llama::message_of([&] { check_fits(plan, request, 8'000'000'000U); }), "no --micro-batch");
    check_fits(plan, request, plan.needed());
    // One less than it needs is too little.
    EXPECT_SAYS(llama::message_of([&] { check_fits(plan, request, plan.needed() - 1); }), "it fits with");
}

TEST(Plan, RecomputesTheLeastThatFits) {
    PlanRequest r =
        setting("nll", model_of(64, 172, 9, 4, 4, 16, 997, false), DType::f32, false, 8, 0, 90, 100).request;
    std::size_t before = std::numeric_limits<std::size_t>::max();
    for (const llama::Recompute what :
         {llama::Recompute::none, llama::Recompute::norm, llama::Recompute::mlp, llama::Recompute::block}) {
        r.recompute = what;
        const std::size_t needed = make_plan(r).needed();
        EXPECT_LT(needed, before) << llama::name_of(what);
        EXPECT_EQ(least_recompute(r, needed), what);
        before = needed;
    }
    EXPECT_EQ(least_recompute(r, 1), llama::Recompute::block);
}

TEST(Plan, RanksThatKeepLessNeedLess) {
    PlanRequest r = llama2_7b();
    r.recompute = llama::Recompute::block;
    r.ranks = 2;
    std::size_t before = std::numeric_limits<std::size_t>::max();
    for (r.zero = 0; r.zero <= 3; ++r.zero) {
        const Plan plan = make_plan(r);
        EXPECT_LT(plan.needed(), before) << r.zero;
        before = plan.needed();
        if (r.zero >= 2) {
            EXPECT_LT(plan.needed(), 80'000'000'000U) << "the paper's two GPUs";
        }
        // Of the four micro-batches each is reduced, and at stage 3 gathered twice, but for the embedding and the head.
        const auto psi = static_cast<std::uint64_t>(llama::parameter_count(r.config));
        const std::uint64_t ends = std::uint64_t{2} * 32000 * 4096;
        const std::uint64_t moved[] = {2 * psi, 2 * psi, 5 * psi, 4 * (3 * psi - ends)};
        EXPECT_NEAR(static_cast<double>(plan.traffic.total().elements), static_cast<double>(moved[r.zero]), 1e6);
    }
    r.ranks = 1;
    r.zero = 0;
    r.lora = {.rank = 4, .alpha = 8, .dropout = 0};
    EXPECT_LT(make_plan(r).needed(), 24'000'000'000U) << "the paper's one card";
}

TEST(Plan, TheNearestSettingsAreTheLeastChange) {
    PlanRequest r =
        setting("nll", model_of(64, 172, 9, 4, 4, 16, 997, false), DType::f32, false, 8, 0, 90, 100).request;
    const auto needs = [&r](bool recompute, DType dtype, std::int64_t micro_batch) {
        PlanRequest changed = r;
        changed.recompute = recompute ? llama::Recompute::block : llama::Recompute::norm;
        changed.dtype = dtype;
        changed.trainer.micro_batch = micro_batch;
        return make_plan(changed).needed();
    };
    EXPECT_EQ(nearest_fit(r, needs(false, DType::f32, 4))->flags, "--micro-batch 4");
    EXPECT_EQ(nearest_fit(r, needs(false, DType::f32, 1))->flags, "--micro-batch 1");
    EXPECT_EQ(nearest_fit(r, needs(true, DType::f32, 1))->flags, "--micro-batch 1 --recompute");
    EXPECT_EQ(nearest_fit(r, needs(false, DType::f32, 8))->flags, "");
    EXPECT_FALSE(nearest_fit(r, 1000).has_value());
}

TEST(Plan, SizesAreReadAndWritten) {
    EXPECT_EQ(size_text(13.476e9), "13.5 GB");
    EXPECT_EQ(size_text(121.3e9), "121.3 GB");
    EXPECT_EQ(size_text(812.4e6), "812 MB");
    EXPECT_EQ(size_text(1.5e12), "1.50 TB");
    EXPECT_EQ(parse_size("80G", "--memory"), 80'000'000'000U);
    EXPECT_EQ(parse_size("1.5GB", "--memory"), 1'500'000'000U);
    EXPECT_EQ(parse_size("24GiB", "--memory"), std::size_t{24} << 30);
    EXPECT_EQ(parse_size("4096", "--memory"), 4096U);
    for (const char* wrong : {"", "G", "-1G", "80 G", "80X", "0", "nan", "1e30", "inf"})
        EXPECT_SAYS(llama::message_of([&] { parse_size(wrong, "--memory"); }), cat("--memory ", wrong)) << wrong;
}

TEST(Prediction, IsEachFamilyAtItsShareOfTheRoof) {
    tensor::Profile work{};
    work[0] = {.calls = 10, .seconds = 0, .work = {}, .least = 0.7};
    work[5] = {.calls = 1, .seconds = 0, .work = {}, .least = 0.4};
    PredictionOptions o;
    o.shares.fill(0.5);
    const Prediction p = predict(work, o);
    EXPECT_DOUBLE_EQ(p.seconds[0], 1.4);
    EXPECT_DOUBLE_EQ(p.compute, 2.2);
    EXPECT_DOUBLE_EQ(p.step, 2.2);
    o.launch = 1.0;  // the host is slower than the chip
    EXPECT_DOUBLE_EQ(predict(work, o).step, 11.0);
}

TEST(Prediction, CommunicationHidesUnderTheBackwardPass) {
    tensor::Profile work{};
    work[0] = {.calls = 1, .seconds = 0, .work = {}, .least = 3.0};
    PredictionOptions o;
    o.shares.fill(1.0);
    o.ranks = 4;
    o.wires = {100, 100};
    o.overlap = 0.5;  // of 2 s
    o.traffic = 100;
    EXPECT_DOUBLE_EQ(predict(work, o).communication, 0.75);
    EXPECT_DOUBLE_EQ(predict(work, o).step, 3.0);
    o.traffic = 400;
    EXPECT_DOUBLE_EQ(predict(work, o).step, 3.0 + 3.0 - 1.0);
    o.calls = 2;  // of three hops each
    o.wires.hop = 0.5;
    EXPECT_DOUBLE_EQ(predict(work, o).communication, 3.0 + 3.0);
    o.wires.network = 10;
    o.wires.ranks_a_machine = 2;
    EXPECT_DOUBLE_EQ(predict(work, o).communication, 30.0 + 3.0);
    o.ranks = 1;
    EXPECT_DOUBLE_EQ(predict(work, o).step, 3.0);
}

TEST(Prediction, SharesAreReadByName) {
    const Shares shares = parse_shares("matmul=0.5,element-wise=0.25");
    EXPECT_EQ(shares[static_cast<std::size_t>(tensor::Family::matmul)], 0.5);
    EXPECT_EQ(shares[static_cast<std::size_t>(tensor::Family::elementwise)], 0.25);
    EXPECT_EQ(shares[static_cast<std::size_t>(tensor::Family::heads)],
              usual_shares()[static_cast<std::size_t>(tensor::Family::heads)]);
    for (const char* wrong : {"gemm=0.5", "matmul", "matmul=", "matmul=2", "matmul=0", "matmul=0.5x"})
        EXPECT_SAYS(llama::message_of([&] { parse_shares(wrong); }), "--shares");
    EXPECT_SAYS(llama::message_of([] { chip_named("h300"); }), "h200, h100");
}

}  // namespace
}  // namespace uipe::unlearn
