// Equations 2 to 6 of the UIPE paper as identities in f64.
#include "unlearn/experiment/geometry.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "llama/logprobs.h"
#include "llama/weights.h"
#include "tensor/ops.h"
#include "tests/llama/models.h"
#include "unlearn/extrapolate.h"

namespace uipe::unlearn {
namespace {

using tensor::DType;
using Sequences = std::vector<llama::Sequence>;

class Geometry : public ::testing::Test {
protected:
    static llama::StateDict weights(const char* name) {
        const fs::path folder = fs::path(FIXTURES) / "llama" / name;
        return llama::own_weights(llama::read_weights(folder, llama::read_config(folder)), DType::f64);
    }

    /// Mean NLL of the target tokens, by another way than a training pass.
    double loss(const llama::StateDict& theta, const Sequences& rows) const {
        const llama::Llama model(config_, theta);
        double sum = 0;
        double targets = 0;
        for (const auto& logprobs : llama::token_logprobs(model, rows)) {
            sum -= std::accumulate(logprobs.begin(), logprobs.end(), 0.0);
            targets += static_cast<double>(logprobs.size());
        }
        return sum / targets;
    }

    static llama::StateDict moved(const llama::StateDict& theta, const llama::StateDict& direction, double by) {
        llama::StateDict out;
        for (const auto& [name, w] : theta) {
            out[name] = w.clone();
            tensor::axpby(out[name], by, direction.at(name), 1.0);
        }
        return out;
    }

    const test::Threads one_{1};
    const llama::Config config_ = llama::read_config(fs::path(FIXTURES) / "llama/grouped");
    const llama::StateDict initial_ = weights("grouped"), theta_ = weights("grouped_ref");
    const llama::Llama model_{config_, initial_};
    const Sequences k1_{{{1, 7, 12, 30, 4, 9}, 2}, {{1, 5, 6, 40}, 1}, {{1, 9, 22, 8, 3, 3, 17}, 4}};
    const Sequences k2_{{{1, 7, 13, 31, 2}, 3}, {{1, 5, 16, 20, 11, 2}, 2}};
};

TEST_F(Geometry, AGradientIsTheSlopeOfTheLoss) {
    const llama::StateDict g = gradient(model_, k1_);
    constexpr double h = 1e-5;
    const double slope =
        (loss(moved(initial_, g, h / norm(g)), k1_) - loss(moved(initial_, g, -h / norm(g)), k1_)) / (2 * h);
    EXPECT_NEAR(slope, norm(g), 1e-7 * norm(g));
    for (const nn::Parameter& p : model_.trainable()) EXPECT_FALSE(p.variable.grad().defined()) << p.name;
}

TEST_F(Geometry, PassesDoNotChangeAGradient) {
    const llama::StateDict all = gradient(model_, k1_);
    const llama::StateDict one = gradient(model_, k1_, 1);
    EXPECT_NEAR(cosine(all, one), 1.0, 1e-12);
    EXPECT_NEAR(norm(all), norm(one), 1e-12 * norm(all));
}

TEST_F(Geometry, CosinesAreThoseOfTheirParts) {
    const llama::StateDict a = gradient(model_, k1_);
    const llama::StateDict b = gradient(model_, k2_);
    EXPECT_NEAR(cosine(a, a), 1.0, 1e-12);
    EXPECT_NEAR(cosine(a, moved(a, a, -3.0)), -1.0, 1e-12);
    EXPECT_DOUBLE_EQ(cosine(a, b), cosine(b, a));
    // |a + b|² = |a|² + |b|² + 2 |a| |b| cos
    const double sum = norm(moved(a, b, 1.0));
    EXPECT_NEAR(sum * sum, dot(a, a) + dot(b, b) + 2 * norm(a) * norm(b) * cosine(a, b), 1e-10 * sum * sum);
    const auto layers = cosine_by_layer(a, b);
    EXPECT_EQ(layers.size(), static_cast<std::size_t>(config_.num_layers) + 2);
    EXPECT_EQ(layers.count("embedding") + layers.count("layer  0") + layers.count("head"), 3u);
    for (const auto& [layer, value] : layers) EXPECT_LE(std::abs(value), 1.0 + 1e-12) << layer;
    llama::StateDict other = b;
    other.erase(other.begin());
    EXPECT_THROW(dot(a, other), Error);
}

TEST_F(Geometry, TheLossGrowsAsTheUpdateGoesAlongItsGradient) {  // equation 4, to first order
    const llama::StateDict ascent = gradient(model_, k1_);
    const llama::StateDict related = gradient(model_, k2_);
    const double slope = norm(ascent) * cosine(ascent, related);  // of the way along `related`, a unit of step size
    constexpr double eta = 1e-5;
    EXPECT_NEAR(projection(update(moved(initial_, ascent, eta), initial_), related), eta * slope,
                1e-10 * eta * norm(ascent));
    // Two small steps, there and back: the terms of second order cancel, that of third order is 1e-9 of the slope.
    constexpr double h = 1e-7;
    const double grown = loss(moved(initial_, ascent, h), k2_) - loss(moved(initial_, ascent, -h), k2_);
    EXPECT_NEAR(grown, 2 * h * slope * norm(related), 1e-7 * h * std::abs(slope) * norm(related));
}

TEST_F(Geometry, ExtrapolationMultipliesEveryProjection) {  // equation 6
    const llama::StateDict g = gradient(model_, k2_);
    const double along = projection(update(theta_, initial_), g);
    for (const double alpha : {-1.0, 0.0, 0.3, 1.0, 4.0}) {
        const llama::StateDict further = update(extrapolated(theta_, initial_, alpha), initial_);
        EXPECT_NEAR(projection(further, g), (1 + alpha) * along, 1e-10 * std::abs(along) * (1 + alpha)) << alpha;
        EXPECT_NEAR(norm(further), (1 + alpha) * norm(update(theta_, initial_)), 1e-10 * norm(further) + 1e-300);
    }
    EXPECT_THROW(projection(g, update(initial_, initial_)), Error);
}

}  // namespace
}  // namespace uipe::unlearn
