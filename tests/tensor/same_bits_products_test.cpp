// Matrix products and the heads that contain them give the same bits on every run and for any number of threads, in the
// shapes of training steps. A library may cut a sum by the number of threads; these shapes are where it must not.
#include "tensor/scoring_head.h"
#include "tests/tensor/same_bits.h"

namespace uipe::tensor::test {
namespace {

/// Those whose products keep their bits on this processor.
std::vector<DType> types() {
    std::vector<DType> out;
    for (const DType dtype : {DType::f32, DType::bf16})
        if (products_keep_bits(dtype)) out.push_back(dtype);
    return out;
}

/// A layer's three products at T tokens: forward y = x w^T, dx = dy w, dw = dy^T x.
void layer_products(const Take& take, std::int64_t T, std::int64_t C, std::int64_t N, DType dtype) {
    const Tensor x = noise({T, C}, dtype, 1);
    const Tensor w = noise({N, C}, dtype, 2);
    const Tensor dy = noise({T, N}, dtype, 3);
    const auto run = [&](const char* what, const Shape& shape, const Tensor& a, bool transpose_a, const Tensor& b,
                         bool transpose_b, DType to) {
        for (const bool accumulate : {false, true}) {
            const Tensor y = noise(shape, to, 4);
            matmul(y, a, transpose_a, b, transpose_b, accumulate);
            take(cat(what, " T ", T, " C ", C, " N ", N, " ", name_of(dtype), " to ", name_of(to),
                     accumulate ? " accumulated" : ""),
                 {y});
        }
    };
    run("y = x w^T", {T, N}, x, false, w, true, dtype);
    run("dx = dy w", {T, C}, dy, false, w, false, dtype);
    run("dw = dy^T x", {N, C}, dy, true, x, false, DType::f32);
    if (dtype == DType::bf16) run("y = x w^T", {T, N}, x, false, w, true, DType::f32);
}

TEST(SameBitsOfProducts, OfTheLayersOfTrainingSteps) {
    expect_same_bits([](const Take& take) {
        for (const DType dtype : types())
            for (const std::int64_t T : {1, 7, 68, 256, 1024})
                for (const auto& [C, N] : {std::pair{21, 33}, {96, 256}, {288, 768}, {768, 2048}})
                    layer_products(take, T, C, N, dtype);
    });
}

TEST(SameBitsOfProducts, OfLargeVocabularies) {
    expect_same_bits([](const Take& take) {
        for (const DType dtype : types()) {
            for (const std::int64_t T : {7, 129}) layer_products(take, T, 768, 32000, dtype);
            layer_products(take, 513, 288, 32000, dtype);
        }
    });
}

/// dw of a small layer in a large batch: a sum over thousands of tokens for few outputs tempts a library most.
TEST(SameBitsOfProducts, OfSmallLayersInLargeBatches) {
    expect_same_bits([](const Take& take) {
        for (const DType dtype : types())
            for (const std::int64_t T : {2048, 4001, 8192})
                for (const auto& [C, N] : {std::pair{48, 48}, {32, 96}, {96, 96}, {96, 256}, {256, 96}, {64, 1000}})
                    layer_products(take, T, C, N, dtype);
    });
}

struct HeadSize {
    std::int64_t T, C, V;
};

TEST(SameBitsOfProducts, OfTheHeads) {
    expect_same_bits([](const Take& take) {
        for (const DType dtype : types())
            for (const HeadSize& s : {HeadSize{9, 21, 61}, {301, 96, 1499}, {301, 96, 32000}}) {
                const Tensor hidden = noise({s.T, s.C}, dtype, 1);
                const Tensor w = noise({s.V, s.C}, dtype, 2);
                const Tensor hidden_ref = noise({s.T, s.C}, dtype, 3);
                const Tensor w_ref = noise({s.V, s.C}, dtype, 4);
                const Tensor targets = noisy_indices(s.T, s.V, 3);
                const Tensor mask = noisy_indices(s.T, 2);
                const Tensor dy = noise({s.T}, DType::f32, 5);
                const std::string at = cat(" ", name_of(dtype), " T ", s.T, " C ", s.C, " V ", s.V);
                const Tensor z = Tensor::zeros({s.T, s.V}, DType::f32);
                logits(z, hidden, w);
                take("logits" + at, {z});
                const auto [logp, likeliest, spread] = ScoringHead(w).look_closely(hidden, targets);
                take("a close look" + at, {logp, likeliest, spread});
                for (const bool kept : {false, true})
                    for (const bool accumulate : {false, true}) {
                        const std::string how = at + (kept ? " kept" : "") + (accumulate ? " accumulated" : "");
                        const auto dlogits = [&](std::int64_t n) {
                            return kept ? Tensor::zeros({n, s.V}, dtype) : Tensor();
                        };
                        const Tensor y = Tensor::zeros({s.T}, DType::f32);
                        const Tensor argmax = Tensor::zeros({s.T}, DType::i32);
                        const Tensor dhidden = noise({s.T, s.C}, dtype, 6);
                        const Tensor dw = noise({s.V, s.C}, DType::f32, 7);
                        const Tensor d_of_logp = dlogits(num_targets(targets));
                        const Tensor moments = Tensor::zeros({s.T, 2}, DType::f32);
                        token_logprob(y, hidden, w, targets, argmax, d_of_logp, moments);
                        token_logprob_backward(dhidden, dw, dy, hidden, w, targets, accumulate, d_of_logp);
                        take("token_logprob" + how, {y, argmax, dhidden, dw});
                        take("moments" + how, {moments});
                        const Tensor d_of_kl = dlogits(num_taken(mask, s.T));
                        token_kl(y, hidden, w, hidden_ref, w_ref, mask, d_of_kl);
                        token_kl_backward(dhidden, dw, dy, hidden, w, hidden_ref, w_ref, mask, accumulate, d_of_kl);
                        take("token_kl" + how, {y, dhidden, dw});
                    }
            }
    });
}

}  // namespace
}  // namespace uipe::tensor::test
