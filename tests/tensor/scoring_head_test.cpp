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

TEST_P(Scoring, ACloseLookIsAllThatTokenLogprobGives) {
    for (const std::int64_t V : {1, 1000, 1024, 3001}) {
        const std::int64_t T = 600;
        const DType acc = accumulator_of(GetParam());
        const Tensor w = normal({V, 24}, GetParam());
        const Tensor hidden = normal({T, 24}, GetParam());
        Tensor targets = indices(T, 0, static_cast<std::int32_t>(V));
        for (std::int64_t t = 0; t < T; t += 7) targets.data<std::int32_t>()[t] = -1;
        const Tensor logp = poisoned({T}, acc);
        const Tensor argmax = poisoned({T}, DType::i32);
        const Tensor moments = poisoned({T, 2}, acc);
        token_logprob(logp, hidden, w, targets, argmax, {}, moments);
        const auto got = ScoringHead(w).look_closely(hidden, targets);
        const auto expect_close = [](const Tensor& x, const Tensor& want, double tolerance) {
            ASSERT_EQ(x.shape(), want.shape());
            const std::vector<double> a = values(x), b = values(want);
            for (std::size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], tolerance) << i;
        };
        // As above; a variance is a mean of squares of distances, of which those that count are below 10.
        const double near = 40.0 * 64.0 * unit(acc);
        expect_close(got.logp, logp, near);
        expect_close(got.moments, moments, 100.0 * near);
        // Two tokens may be nearer to each other than the rounding of their logits: either is the likeliest.
        const Tensor of_got = poisoned({T}, acc);
        const Tensor of_want = poisoned({T}, acc);
        token_logprob(of_got, hidden, w, got.argmax);
        token_logprob(of_want, hidden, w, argmax);
        expect_close(of_got, of_want, near);
    }
}

TEST(ScoringHead, TheLikeliestTokenIsTheFirstOfEqualLogitsInWhateverSlice) {
    const Tensor hidden = Tensor::full({2, 1}, DType::f32, 1.0);
    hidden.data<float>()[1] = 0.0F;
    const Tensor w = Tensor::zeros({3001, 1}, DType::f32);
    for (const std::int64_t v : {1500, 1600, 2900}) w.data<float>()[v] = 1.0F;
    const auto got = ScoringHead(w).look_closely(hidden, Tensor::from(std::vector<std::int32_t>{7, 7}));
    EXPECT_EQ(got.argmax.to_vector<std::int32_t>(), (std::vector<std::int32_t>{1500, 0}));
}

TEST(ScoringHead, TargetsAreOfTheVocabulary) {
    const ScoringHead head(normal({5, 4}, DType::f32));
    EXPECT_THROW(head.logprob(normal({1, 4}, DType::f32), Tensor::from(std::vector<std::int32_t>{5})), Error);
    EXPECT_THROW(head.logprob(normal({2, 4}, DType::f32), Tensor::from(std::vector<std::int32_t>{1})), Error);
}

}  // namespace
}  // namespace uipe::tensor::test
