// A whole model on the device: its loss and every gradient, beside those of the same model on the CPU.
#include "tensor/cuda/runtime.h"
#include "tests/cuda/cuda_test.h"
#include "tests/llama/models.h"

namespace uipe::llama {
namespace {

using tensor::Device;
using tensor::DType;
using tensor::Tensor;

/// Two layers of grouped heads; 16 numbers a head, so that tensor cores take part in bf16.
Config config() {
    Config c = small_config();
    c.hidden_size = 64;
    c.intermediate_size = 168;
    c.head_dim = 16;
    c.vocab_size = 96;
    return c;
}

struct Result {
    double loss;
    nn::Parameters gradients;  // by name, on the CPU
};

/// -mean log p over the targets of one batch, and its gradients.
Result run(const StateDict& weights, const char* recompute = "norm") {
    Llama model(config(), weights);
    model.set_recompute(recompute_named(recompute));
    const Batch batch = pack(random_sequences(config(), {17, 5, 33, 40}));
    const Variable loss =
        autograd::scale(autograd::sum(model.logprob(batch)), -1.0 / static_cast<double>(batch.num_targets));
    autograd::backward(loss);
    Result out{loss.value().item(), {}};
    for (const nn::Parameter& p : model.parameters())
        out.gradients.push_back({p.name, Variable(p.variable.grad().to(Device{}))});
    return out;
}

using CudaModel = tensor::test::CudaFloats;
UIPE_CUDA_FLOATS(CudaModel);

TEST_P(CudaModel, LossAndEveryGradientAreTheCpus) {
    const StateDict weights = lively_weights(config(), GetParam(), 0, 0.15);
    const Result exact = run(own_weights(weights, DType::f64));
    const Result host = run(own_weights(weights, GetParam()));
    const Result device = run(own_weights(weights, GetParam(), cuda()));
    // Both engines round at the same places, so their errors against f64 are of one size. They are drawn anew, though,
    // and the error of a small tensor can be lucky: hence a factor of 3, and eps of the format over a few roundings.
    const double least = 8.0 * (GetParam() == DType::f32 ? 0x1p-24 : 0x1p-9);
    EXPECT_NEAR(device.loss, exact.loss, 3.0 * std::abs(host.loss - exact.loss) + least * std::abs(exact.loss));
    ASSERT_EQ(device.gradients.size(), exact.gradients.size());
    for (std::size_t i = 0; i < exact.gradients.size(); ++i) {
        const Tensor want = exact.gradients[i].variable.value();
        const double error = tensor::test::norm_error(device.gradients[i].variable.value(), want);
        const double usual = tensor::test::norm_error(host.gradients[i].variable.value(), want);
        EXPECT_LE(error, 3.0 * usual + least) << exact.gradients[i].name << ", the CPU's error " << usual;
    }
}

TEST_P(CudaModel, TheSameBitsEveryTimeAndWhenBlocksAreRecomputed) {
    const StateDict weights = lively_weights(config(), GetParam(), 0, 0.15);
    const Result first = run(own_weights(weights, GetParam(), cuda()));
    for (const char* recompute : recompute_modes) {
        const Result again = run(own_weights(weights, GetParam(), cuda()), recompute);
        EXPECT_EQ(again.loss, first.loss);
        for (std::size_t i = 0; i < first.gradients.size(); ++i)
            EXPECT_TRUE(test::same_bits(again.gradients[i].variable.value(), first.gradients[i].variable.value()))
                << first.gradients[i].name << ", " << recompute;
    }
}

using CudaWeights = tensor::test::Cuda;

TEST_F(CudaWeights, EachBlockIsNamedForProfilers) {
    const std::size_t before = tensor::cuda::ranges();
    (void)run(own_weights(lively_weights(config(), DType::f32), DType::f32, cuda()));
    EXPECT_EQ(tensor::cuda::ranges() - before, static_cast<std::size_t>(config().num_layers));
}

TEST_F(CudaWeights, FreshAndMovedWeightsAreTheCpus) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
        const StateDict there = random_weights(config(), dtype, 3, cuda());
        for (const auto& [name, w] : random_weights(config(), dtype, 3)) {
            EXPECT_EQ(there.at(name).device(), cuda());
            EXPECT_TRUE(test::same_bits(there.at(name).to(Device{}), w)) << name;
        }
    }
    const StateDict wide = lively_weights(config(), DType::f64);  // a type that the device does not compute in
    for (const auto& [name, w] : moved_weights(wide, DType::bf16, cuda()))
        EXPECT_TRUE(test::same_bits(w.to(Device{}), wide.at(name).to(DType::bf16))) << name;
}

TEST_F(CudaWeights, AFileWrittenFromTheDeviceHoldsWhatOneFromTheCpuDoes) {
    const TemporaryFolder folder;
    const StateDict here = lively_weights(config(), DType::f32);
    for (const std::optional<DType> dtype : {std::optional<DType>(), std::optional<DType>(DType::bf16)}) {
        write_safetensors(folder / "here.safetensors", here, dtype);
        write_safetensors(folder / "there.safetensors", moved_weights(here, DType::f32, cuda()), dtype);
        EXPECT_EQ(read_file(folder / "there.safetensors"), read_file(folder / "here.safetensors"));
    }
}

}  // namespace
}  // namespace uipe::llama
