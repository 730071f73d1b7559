// Log-probabilities slice by slice are those of the whole vocabulary.
#include "tensor/scoring_head.h"

#include "tests/tensor/reference.h"

namespace uipe::tensor::test {
namespace {

class Scoring : public EachType {};
UIPE_EACH_FLOAT_TYPE(Scoring);

TEST_P(Scoring, EqualsTokenLogprob) {
    for (const std::int64_t V : {1, 1000, 1024, 3001}) {
        const std::int64_t T = 1100;  // more than two chunks
        const Tensor w = normal({V, 24}, GetParam());
        const Tensor hidden = normal({T, 24}, GetParam());
        std::vector<std::int32_t> targets;
        for (std::int64_t t = 0; t < T; ++t)
            targets.push_back(t % 7 == 0 ? -1 : static_cast<std::int32_t>(t * 577 % V));
        const Tensor expected = poisoned({T}, accumulator_of(GetParam()));
        token_logprob(expected, hidden, w, Tensor::from(targets));
        const std::vector<double> want = values(expected);
        for (const bool pack : {true, false}) {
            const std::vector<double> got = values(ScoringHead(w, pack).logprob(hidden, Tensor::from(targets)));
            // Logits are below 40; sums of 24 terms and of exponentials round at each.
            const double near = 40.0 * 64.0 * unit(accumulator_of(GetParam()));
            for (std::size_t t = 0; t < got.size(); ++t) ASSERT_NEAR(got[t], want[t], near) << "row " << t;
        }
    }
}

TEST(ScoringHead, TargetsAreOfTheVocabulary) {
    const ScoringHead head(normal({5, 4}, DType::f32));
    EXPECT_THROW(head.logprob(normal({1, 4}, DType::f32), Tensor::from(std::vector<std::int32_t>{5})), Error);
    EXPECT_THROW(head.logprob(normal({2, 4}, DType::f32), Tensor::from(std::vector<std::int32_t>{1})), Error);
}

}  // namespace
}  // namespace uipe::tensor::test
