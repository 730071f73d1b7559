// The screened head answers as all logits would.
#include "tensor/greedy_head.h"

#include <algorithm>
#include <limits>

#include "tests/tensor/reference.h"

namespace uipe::tensor::test {
namespace {

class Greedy : public EachType {};
UIPE_EACH_FLOAT_TYPE(Greedy);

/// hidden[T,C] w[V,C]^T in f64.
Tensor exact_logits(const Tensor& hidden, const Tensor& w) {
    Tensor y = poisoned({hidden.dim(0), w.dim(0)}, DType::f64);
    logits(y, hidden.to(DType::f64), w.to(DType::f64));
    return y;
}

TEST_P(Greedy, FindsTheLargestLogit) {
    for (const std::int64_t V : {1, 63, 65, 2048, 5000})
        for (const bool pack : {true, false}) {
            const Tensor w = normal({V, 48}, GetParam());
            const Tensor hidden = normal({37, 48}, GetParam());
            const Tensor ids = GreedyHead(w, pack).likeliest(hidden);
            const std::vector<double> all = values(exact_logits(hidden, w));
            for (std::int64_t t = 0; t < 37; ++t) {
                const auto row = all.begin() + t * V;
                const double most = *std::max_element(row, row + V);
                // Logits nearer than the sum of 48 terms rounds may change places.
                const double roundings = 48 * unit(accumulator_of(GetParam())) * 48;
                EXPECT_GE(row[ids.data<std::int32_t>()[t]], most - roundings) << "row " << t << " of V " << V;
            }
        }
}

TEST(GreedyHead, TellsLogitsApartThatTheScreenDoesNot) {
    // Rows of w that differ in the 16th bit: bf16 has 8. Each is the likeliest in turn.
    constexpr std::int64_t V = 4500;
    const Tensor w = Tensor::full({V, 32}, DType::f32, 1.0);
    const Tensor hidden = Tensor::full({5, 32}, DType::f32, 1.0);
    for (const std::int64_t best : {4499, 2048, 2047, 64, 1}) {
        w.data<float>()[best * 32 + 7] = 1.0F + 1.0F / 32768.0F;
        const Tensor ids = GreedyHead(w).likeliest(hidden);
        for (const std::int32_t id : ids.to_vector<std::int32_t>()) EXPECT_EQ(id, best) << "and of ties the lower";
    }
}

TEST(GreedyHead, NanIsNeverTheLargest) {
    constexpr float nan = std::numeric_limits<float>::quiet_NaN();
    const Tensor w = normal({300, 16}, DType::f32);
    const Tensor hidden = normal({4, 16}, DType::f32);
    for (std::int64_t v = 0; v < 300; ++v)
        if (v != 170) w.data<float>()[v * 16] = nan;
    for (const std::int32_t id : GreedyHead(w).likeliest(hidden).to_vector<std::int32_t>()) EXPECT_EQ(id, 170);
    fill(hidden, std::numeric_limits<double>::quiet_NaN());
    for (const std::int32_t id : GreedyHead(w).likeliest(hidden).to_vector<std::int32_t>()) EXPECT_EQ(id, 0);
}

}  // namespace
}  // namespace uipe::tensor::test
