#include "unlearn/extrapolate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/llama/models.h"

namespace uipe::unlearn {
namespace {

using tensor::DType;
using tensor::Tensor;

llama::StateDict weights_of(DType dtype, std::uint64_t seed) {
    return llama::lively_weights(llama::small_config(), dtype, seed);
}

/// The initial weights a little further on, as unlearning leaves them.
llama::StateDict moved(const llama::StateDict& initial) {
    llama::StateDict out;
    std::uint64_t stream = 77;
    for (const auto& [name, w] : initial) {
        const Tensor x = w.to(DType::f64);
        const Tensor step = test::normal(w.shape(), stream++, 1e-3);
        const Tensor y = Tensor::zeros(w.shape(), DType::f64);
        tensor::axpby(y, 1.0, x, 0.0);
        tensor::axpby(y, 1.0, step, 1.0);
        out[name] = y.to(w.dtype());
    }
    return out;
}

void expect_same_bits(const llama::StateDict& a, const llama::StateDict& b) {
    ASSERT_EQ(a.size(), b.size());
    for (const auto& [name, w] : a) EXPECT_TRUE(test::same_bits(w, b.at(name))) << name;
}

/// Half the distance from `y` to the next number of the type.
double half_ulp(double y, DType dtype) {
    const int digits = dtype == DType::f32 ? 24 : 8;
    const int exponent = y == 0 ? -126 : std::max(std::ilogb(y), -126);  // below 2^-126 the numbers are evenly spread
    return std::ldexp(1.0, exponent - digits);
}

TEST(Extrapolate, IsTheFormulaRoundedOnce) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
        const llama::StateDict initial = weights_of(dtype, 1);
        const llama::StateDict unlearned = moved(initial);
        for (const double alpha : {0.25, 0.5, 1.0, 2.0, 4.0, -0.3, 37.125}) {
            const llama::StateDict out = extrapolated(unlearned, initial, alpha);
            ASSERT_EQ(out.size(), unlearned.size());
            for (const auto& [name, y] : out) {
                EXPECT_EQ(y.dtype(), dtype);
                EXPECT_EQ(y.shape(), unlearned.at(name).shape());
                const std::vector<double> got = test::doubles(y);
                const std::vector<double> u = test::doubles(unlearned.at(name));
                const std::vector<double> z = test::doubles(initial.at(name));
                for (std::size_t i = 0; i < got.size(); ++i) {
                    const long double exact =
                        u[i] + static_cast<long double>(alpha) * (static_cast<long double>(u[i]) - z[i]);
                    const auto error = static_cast<double>(std::abs(exact - static_cast<long double>(got[i])));
                    // Over half an ulp only by f64's own rounding, which can move a tie.
                    EXPECT_LE(error, half_ulp(static_cast<double>(exact), dtype) * (1 + 1e-6) + 1e-14)
                        << name << " element " << i << " alpha " << alpha;
                }
            }
        }
    }
}

TEST(Extrapolate, AlphaZeroIsTheUnlearnedModelToTheBit) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
        const llama::StateDict initial = weights_of(DType::f32, 1);
        const llama::StateDict unlearned = weights_of(dtype, 2);
        expect_same_bits(extrapolated(unlearned, initial, 0.0), unlearned);
    }
}

TEST(Extrapolate, AlphaMinusOneIsTheInitialModelToTheBit) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
        const llama::StateDict initial = weights_of(dtype, 1);
        expect_same_bits(extrapolated(weights_of(dtype, 2), initial, -1.0), initial);
        expect_same_bits(extrapolated(moved(initial), initial, -1.0), initial);
    }
}

TEST(Extrapolate, WithoutAnUpdateNothingMoves) {
    const llama::StateDict weights = weights_of(DType::f32, 1);
    for (const double alpha : {0.5, 1.0, 4.0}) expect_same_bits(extrapolated(weights, weights, alpha), weights);
}

TEST(Extrapolate, AnotherModelIsRefused) {
    const llama::StateDict unlearned = weights_of(DType::f32, 1);
    llama::StateDict fewer = unlearned;
    fewer.erase("model.norm.weight");
    EXPECT_SAYS(llama::message_of([&] { extrapolated(unlearned, fewer, 1); }), "--base");
    llama::StateDict renamed = fewer;
    renamed["model.norm.bias"] = unlearned.at("model.norm.weight");
    EXPECT_SAYS(llama::message_of([&] { extrapolated(unlearned, renamed, 1); }), "model.norm.weight");
    llama::StateDict reshaped = unlearned;
    const Tensor embedding = unlearned.at("model.embed_tokens.weight");
    reshaped["model.embed_tokens.weight"] = embedding.view({embedding.dim(1), embedding.dim(0)});
    const std::string message = llama::message_of([&] { extrapolated(unlearned, reshaped, 1); });
    EXPECT_SAYS(message, "[32,12]");
    EXPECT_SAYS(message, "[12,32]");
    for (const double alpha : {std::nan(""), std::numeric_limits<double>::infinity()})
        EXPECT_SAYS(llama::message_of([&] { extrapolated(unlearned, unlearned, alpha); }), "--alpha");
}

TEST(Extrapolate, TheUpdateNormIsTheDistance) {
    llama::StateDict initial{{"a", Tensor::full({2, 3}, DType::f32, 2.0)}, {"b", Tensor::full({10}, DType::f32, 1.0)}};
    llama::StateDict unlearned{{"a", Tensor::full({2, 3}, DType::f32, 2.5)},
                               {"b", Tensor::full({10}, DType::f32, 0.5)}};
    const UpdateNorm n = update_norm(unlearned, initial);
    EXPECT_DOUBLE_EQ(n.update, 2.0);               // sqrt(16 * 0.25)
    EXPECT_DOUBLE_EQ(n.initial, std::sqrt(34.0));  // 6 * 4 + 10
}

llama::Adapter adapter_of(std::int64_t rank, double alpha, std::uint64_t seed,
                          const std::vector<std::string>& targets = {"q_proj", "down_proj"}) {
    llama::Adapter out =
        llama::fresh_adapter(llama::small_config(), {.rank = rank, .alpha = alpha, .targets = targets}, seed);
    std::uint64_t stream = 100 * seed;
    for (auto& [name, w] : out.weights)
        if (name.ends_with("lora_B.weight")) w = test::normal(w.shape(), stream++, 0.3, DType::f32);
    return out;
}

/// s B A of every target, in f64.
std::map<std::string, std::vector<double>> products_of(const llama::Adapter& adapter) {
    std::map<std::string, std::vector<double>> out;
    for (const auto& [name, a] : adapter.weights) {
        if (!name.ends_with("lora_A.weight")) continue;
        const std::string matrix = name.substr(0, name.size() - std::string("lora_A.weight").size());
        const Tensor b = adapter.weights.at(matrix + "lora_B.weight");
        const Tensor product = Tensor::zeros({b.dim(0), a.dim(1)}, DType::f64);
        tensor::matmul(product, b.to(DType::f64), false, a.to(DType::f64), false);
        tensor::axpby(product, adapter.config.scale(), product.clone(), 0.0);
        out[matrix] = test::doubles(product);
    }
    return out;
}

TEST(Extrapolate, OfAdaptersIsTheProducts) {
    const llama::Adapter unlearned = adapter_of(3, 7, 1);
    const auto of_unlearned = products_of(unlearned);
    for (const bool from_adapter : {false, true}) {
        const std::optional<llama::Adapter> initial =
            from_adapter ? std::optional(adapter_of(2, 1, 2)) : std::optional<llama::Adapter>();
        const auto of_initial = products_of(initial.value_or(llama::Adapter{{.rank = 1, .alpha = 1}, {}}));
        for (const double alpha : {0.25, 1.0, 4.0, -0.5}) {
            const llama::Adapter out = extrapolated(unlearned, initial, alpha);
            EXPECT_EQ(out.config.rank, from_adapter ? 5 : 3);
            for (const auto& [matrix, got] : products_of(out)) {
                double largest = 0;
                for (std::size_t i = 0; i < got.size(); ++i) {
                    const double u = of_unlearned.at(matrix)[i];
                    largest = std::max(largest, std::abs((1 + alpha) * u));
                }
                for (std::size_t i = 0; i < got.size(); ++i) {
                    const double u = of_unlearned.at(matrix)[i];
                    const double z = from_adapter ? of_initial.at(matrix)[i] : 0.0;
                    // Each factor was rounded to f32 once, and there are five terms of about the largest product.
                    EXPECT_NEAR(got[i], u + alpha * (u - z), 8 * 0x1p-24 * (largest + std::abs(alpha * z)));
                }
            }
        }
    }
}

TEST(Extrapolate, OfAdaptersEndsAtTheEnds) {
    const llama::Adapter unlearned = adapter_of(3, 7, 1);
    const llama::Adapter initial = adapter_of(2, 1, 2);
    expect_same_bits(extrapolated(unlearned, initial, 0.0).weights, unlearned.weights);
    expect_same_bits(extrapolated(unlearned, {}, 0.0).weights, unlearned.weights);
    expect_same_bits(extrapolated(unlearned, initial, -1.0).weights, initial.weights);
    EXPECT_TRUE(llama::is_zero(extrapolated(unlearned, {}, -1.0)));
    const llama::Adapter other = adapter_of(2, 1, 2, {"q_proj"});
    EXPECT_SAYS(llama::message_of([&] { extrapolated(unlearned, other, 1.0); }), "other targets");
}

TEST(Extrapolate, TheUpdateNormOfAdaptersIsThatOfTheMergedWeights) {
    const llama::StateDict weights = weights_of(DType::f32, 1);
    const llama::Adapter unlearned = adapter_of(3, 7, 1);
    const llama::Adapter initial = adapter_of(2, 1, 2);
    const UpdateNorm n = update_norm(weights, unlearned, initial);
    const UpdateNorm m = update_norm(llama::merged(weights, unlearned), llama::merged(weights, initial));
    EXPECT_NEAR(n.update, m.update, 1e-6 * m.update);
    EXPECT_NEAR(n.initial, m.initial, 1e-6 * m.initial);
    const UpdateNorm fresh = update_norm(weights, unlearned, {});
    EXPECT_NEAR(fresh.update, update_norm(llama::merged(weights, unlearned), weights).update, 1e-6 * fresh.update);
}

}  // namespace
}  // namespace uipe::unlearn
