// Models for the tests of this floor: random, but far from trivial.
#pragma once

#include "llama/model.h"
#include "tests/autograd/inputs.h"
#include "tests/llama/support.h"

namespace uipe::llama {

/// Matrices ~ N(0, std²), norm weights ~ N(1, 0.2²): attention, gates and norms all matter, as in a trained model.
inline StateDict lively_weights(const Config& config, tensor::DType dtype, std::uint64_t seed = 0, double std = 0.4) {
    StateDict weights;
    std::uint64_t stream = 1000 * (seed + 1);
    for (const auto& [name, shape] : expected_weights(config)) {
        weights[name] = test::normal(shape, stream++, shape.size() == 1 ? 0.2 : std);
        if (shape.size() == 1) {
            const tensor::Tensor one = tensor::Tensor::full(shape, tensor::DType::f64, 1.0);
            tensor::axpby(weights[name], 1.0, one, 1.0);
        }
        weights[name] = weights[name].to(dtype);
    }
    return weights;
}

inline Llama lively_model(const Config& config, tensor::DType dtype, std::uint64_t seed = 0) {
    return {config, lively_weights(config, dtype, seed)};
}

/// A model of finite weights whose states are not.
inline Llama diverged_model() {
    StateDict weights = lively_weights(small_config(), tensor::DType::f32);
    tensor::fill(weights.at("model.norm.weight"), 3e38);
    return {small_config(), weights};
}

/// Random ids from BOS on, of these lengths; every third sequence is all target.
inline std::vector<Sequence> random_sequences(const Config& config, const std::vector<std::int64_t>& lengths) {
    tensor::Random random(5, 0);
    std::vector<Sequence> out;
    for (const std::int64_t n : lengths) {
        Sequence s{{config.bos_token_id}, 1};
        while (static_cast<std::int64_t>(s.ids.size()) < n)
            s.ids.push_back(static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(config.vocab_size))));
        if (out.size() % 3 != 0) s.first_target = 1 + static_cast<std::int64_t>(random.below(s.ids.size() - 1));
        out.push_back(std::move(s));
    }
    return out;
}

/// n sequences of small_config(), of 3 to 14 tokens, some of them prompt.
inline std::vector<Sequence> random_rows(std::size_t n, std::uint64_t seed) {
    tensor::Random random(seed, 0);
    const Config config = small_config();
    std::vector<Sequence> out;
    for (std::size_t i = 0; i < n; ++i) {
        Sequence s{{config.bos_token_id}, 1};
        const std::size_t length = 3 + random.below(12);
        while (s.ids.size() < length)
            s.ids.push_back(static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(config.vocab_size))));
        s.first_target = 1 + static_cast<std::int64_t>(random.below(length - 1));
        out.push_back(std::move(s));
    }
    return out;
}

inline constexpr const char* recompute_modes[] = {"none", "norm", "mlp", "block"};

inline std::vector<Variable> variables_of(const Llama& model) {
    std::vector<Variable> out;
    for (const nn::Parameter& p : model.parameters()) out.push_back(p.variable);
    return out;
}

}  // namespace uipe::llama
