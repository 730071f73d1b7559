#include "bench/cuda_fixture.h"

#include <iostream>

#include "autograd/ops.h"
#include "bench/cuda_models.h"
#include "bench/data.h"
#include "llama/weights.h"
#include "tensor/base/json.h"
#include "tensor/master.h"
#include "unlearn/session.h"
#include "unlearn/trainer.h"

namespace uipe::bench {
namespace {

using autograd::Variable;
using tensor::DType;
using tensor::Tensor;

Json json_of(const std::vector<llama::Sequence>& rows) {
    Json out = Json::array();
    for (const llama::Sequence& s : rows) out.push_back({{"ids", s.ids}, {"first_target", s.first_target}});
    return out;
}

Json rows_of(const llama::Config& c) {
    const TofuRows tofu = tofu_rows(c);
    return {{"step", one_sequence(c).front().ids},
            {"forget", json_of(tofu.forget)},
            {"retain", json_of(tofu.partners)},
            {"prompts", tofu_prompts(c)},
            {"prompt", one_prompt(c).front()}};
}

/// By the level that runs use.
void check_attention(llama::StateDict& out, const std::string& name, const std::vector<std::int64_t>& lengths) {
    constexpr std::int64_t H = tiny ? 2 : 32;
    constexpr std::int64_t D = 128;
    const Tensor cu = offsets(lengths);
    const std::int64_t T = cu.data<std::int32_t>()[lengths.size()];
    const std::string at = "attention_" + name + "/";
    std::uint64_t seed = 0;
    for (const char* operand : {"q", "k", "v", "dout"})
        out[at + operand] = random_on_device({T, H * D}, DType::bf16, seed++);
    for (const char* result : {"out", "dq", "dk", "dv"})
        out[at + result] = Tensor::empty({T, H * D}, DType::bf16, cuda_device);
    const Tensor lse = Tensor::empty({T, H}, DType::f32, cuda_device);
    const Tensor &q = out[at + "q"], &k = out[at + "k"], &v = out[at + "v"];
    tensor::attention(out[at + "out"], lse, q, k, v, cu, cu, D);
    tensor::attention_backward(out[at + "dq"], out[at + "dk"], out[at + "dv"], out[at + "dout"], q, k, v,
                               out[at + "out"], lse, cu, D, false, false, false);
    for (const char* each : {"q", "k", "v", "dout", "out", "dq", "dk", "dv"}) {
        Tensor& t = out[at + each];
        t = t.view({T, H, D});
    }
    out[at + "cu"] = cu;
}

void check_head(llama::StateDict& out) {
    const std::int64_t T = tiny ? 8 : 512, V = tiny ? 64 : 32000, C = tiny ? 32 : 4096;
    const Variable hidden = Variable::leaf(random_on_device({T, C}, DType::bf16, 0));
    const Variable w = Variable::parameter(random_on_device({V, C}, DType::bf16, 1, 0.02));
    const Tensor targets = Tensor::from(random_ids(T, V, 2));
    const Variable logp = autograd::token_logprob(hidden, w, targets);
    out["head/logp"] = logp.value();
    autograd::backward(logp, Tensor::full({T}, DType::f32, -1.0 / static_cast<double>(T), cuda_device));
    out["head/hidden"] = hidden.value();
    out["head/w"] = w.value();
    out["head/targets"] = targets;
    out["head/dhidden"] = hidden.grad();
    out["head/dw"] = w.grad();
}

void check_optimizer(llama::StateDict& out) {
    const tensor::Shape shape{tiny ? 1000 : 1'000'000};
    const Tensor w = random_on_device(shape, DType::bf16, 0, 0.02);
    const Tensor rest = Tensor::zeros(shape, DType::bf16, cuda_device);
    const Tensor start = tensor::masters_of(w, rest);
    const Tensor m = Tensor::zeros(shape, DType::f32, cuda_device);
    const Tensor v = Tensor::zeros(shape, DType::f32, cuda_device);
    const Tensor grad = random_on_device(shape, DType::f32, 1);
    tensor::AdamWStep how{.lr = 1e-3, .weight_decay = 0.01, .step = 0};
    how.max_norm = 1.0;
    for (int i = 0; i < 2; ++i) {
        how.step++;
        how.squares = Tensor::zeros({1}, DType::f64, cuda_device);
        tensor::add_squares(how.squares, grad);
        tensor::adamw(w, rest, m, v, grad, how);
    }
    out["optimizer/master"] = start;
    out["optimizer/grad"] = grad;
    out["optimizer/stepped"] = tensor::masters_of(w, rest);
}

}  // namespace

void write_gpu_fixture(const fs::path& folder, bool model) {
    fs::create_directories(folder);
    const llama::Config config = llama_config(all_layers);
    write_json(folder / "rows.json", rows_of(config));
    llama::StateDict checks;
    const std::int64_t T = tiny ? 32 : 2048;
    check_attention(checks, cat("T", T), {T});
    check_attention(checks, "rows", qa_lengths(tiny ? 2 : 64));
    check_head(checks);
    check_optimizer(checks);
    llama::write_safetensors(folder / "checks.safetensors", checks);
    if (model) llama::write_model(folder / "model", config, weights_on_device(config));
}

void first_step(const fs::path& folder) {
    const fs::path model_folder = folder / "model";
    const llama::Config config = llama::read_config(model_folder);
    llama::Llama model(config,
                       llama::own_weights(unlearn::load_weights(model_folder, config), DType::bf16, cuda_device));
    unlearn::TrainerOptions options;
    options.batch_size = 1;
    options.warmup_epochs = 0.0;
    unlearn::Trainer trainer(model, nullptr, unlearn::fine_tuning(), {one_sequence(config), {}, {}}, options);
    const unlearn::StepInfo info = trainer.run_step();
    std::cout << Json{{"loss", info.loss}, {"grad_norm", info.grad_norm}}.dump() << std::endl;
}

}  // namespace uipe::bench
