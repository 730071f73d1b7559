// A plan for a GPU against the run on it. (The plan itself needs no GPU.)
#include "unlearn/plan.h"

#include "tests/cuda/cuda_test.h"
#include "tests/llama/models.h"

namespace uipe::unlearn {
namespace {

using tensor::Device;
using tensor::DType;

using CudaPlan = tensor::test::Cuda;

std::vector<llama::Sequence> rows(const llama::Config& config, std::size_t n) {
    std::vector<std::int64_t> lengths;
    for (std::size_t i = 0; i < n; ++i) lengths.push_back(10 + static_cast<std::int64_t>(i * 7 % 13));
    return llama::random_sequences(config, lengths);
}

/// A small model's fine-tuning or unlearning.
PlanRequest request(const std::string& method, DType dtype, Device device) {
    PlanRequest r;
    r.config = llama::small_config();
    r.config.hidden_size = 64;
    r.config.intermediate_size = 160;
    r.config.head_dim = 16;
    r.config.vocab_size = 500;
    r.objective = method == "nll" ? &fine_tuning() : &unlearning_objective(method);
    r.dtype = dtype;
    r.device = device;
    r.trainer.epochs = 1;
    r.trainer.batch_size = 4;
    r.trainer.micro_batch = 2;
    r.data = {rows(r.config, 8), {}, rows(r.config, 5), rows(r.config, 1)};
    return r;
}

/// What the allocator of the request's device counts in the run itself.
std::size_t measured(const PlanRequest& r) {
    const std::size_t before = tensor::memory_stats(r.device).in_use;
    tensor::reset_peak(r.device);
    const auto weights = [&] { return llama::random_weights(r.config, r.dtype, 1, r.device); };
    llama::Llama model(r.config, weights());
    model.set_recompute(r.recompute);
    std::unique_ptr<llama::Llama> reference;
    if (r.objective->reference_model || r.objective->reference_rows)
        reference = std::make_unique<llama::Llama>(r.config, weights());
    Trainer trainer(model, reference.get(), *r.objective, r.data, r.trainer);
    if (!r.objective->reference_model) reference.reset();
    while (trainer.step() < trainer.total_steps()) trainer.run_step();
    return tensor::memory_stats(r.device).peak - before;
}

TEST_F(CudaPlan, IsTheMeasuredPeakOfTheRun) {
    for (const char* method : {"nll", "kl_min", "npo_rt", "dpo_rt", "undial", "ceu", "rmu"})
        for (const DType dtype : {DType::f32, DType::bf16}) {
            SCOPED_TRACE(cat(method, " ", tensor::name_of(dtype)));
            PlanRequest r = request(method, dtype, cuda());
            r.recompute = dtype == DType::bf16 ? llama::Recompute::block : llama::Recompute::norm;
            const Plan plan = make_plan(r);
            const auto run = static_cast<double>(measured(r));
            // The promise of a plan; what it leaves out are the device's copies of index tensors.
            EXPECT_NEAR(static_cast<double>(plan.memory.peak), run, 0.01 * run);
        }
}

TEST_F(CudaPlan, OfMomentsInBf16AndAnOffloadedOptimizerIsMeasuredToo) {
    for (const DType dtype : {DType::f32, DType::bf16})
        for (const DType moments : {DType::f32, DType::bf16}) {
            PlanRequest r = request("nll", dtype, cuda());
            r.trainer.adamw.moments = moments;
            const std::size_t device = make_plan(r).memory.peak;
            for (const bool offload : {false, true}) {
                SCOPED_TRACE(
                    cat(tensor::name_of(dtype), ", moments ", tensor::name_of(moments), offload ? " away" : ""));
                r.trainer.adamw.offload = offload;
                const Plan plan = make_plan(r);
                const auto run = static_cast<double>(measured(r));
                std::printf("%s, moments %s%s: planned %zu, measured %.0f\n", tensor::name_of(dtype),
                            tensor::name_of(moments), offload ? ", offloaded" : "", plan.memory.peak, run);
                EXPECT_NEAR(static_cast<double>(plan.memory.peak), run, 0.01 * run);
                if (!offload) continue;
                // Gone are the moments, and the rests of bf16 weights.
                const std::size_t each = (moments == DType::bf16 ? 4U : 8U) + (dtype == DType::bf16 ? 2U : 0U);
                const auto weights = static_cast<double>(llama::parameter_count(r.config));
                EXPECT_NEAR(static_cast<double>(device - plan.memory.peak), static_cast<double>(each) * weights,
                            0.01 * run);
                EXPECT_GE(static_cast<double>(plan.host), weights * (moments == DType::bf16 ? 8.0 : 12.0));
            }
        }
}

}  // namespace
}  // namespace uipe::unlearn
