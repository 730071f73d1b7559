#include "bench/cuda_models.h"

#include <array>

#include "bench/data.h"
#include "tensor/base/checksum.h"
#include "unlearn/dataset.h"

namespace uipe::bench {
namespace {

using tensor::DType;
using tensor::Tensor;

/// Tokens of a row's prompt, BOS among them, and of all of it, EOS too.
struct Lengths {
    std::int64_t prompt, all;
};

constexpr std::array<Lengths, 32> forget_lengths{{
    {43, 60}, {25, 45}, {25, 42}, {26, 58}, {35, 74},  {33, 90}, {36, 81}, {30, 63}, {27, 63}, {29, 62}, {30, 71},
    {33, 87}, {24, 67}, {37, 80}, {26, 63}, {31, 79},  {27, 84}, {25, 48}, {30, 92}, {29, 79}, {31, 58}, {25, 44},
    {24, 61}, {23, 80}, {30, 63}, {41, 84}, {44, 108}, {27, 71}, {29, 76}, {26, 61}, {27, 80}, {25, 91},
}};
constexpr std::array<Lengths, 32> retain_lengths{{
    {26, 49}, {28, 73},  {30, 88}, {24, 59}, {26, 66}, {16, 36}, {24, 83}, {19, 40}, {23, 69}, {24, 69}, {27, 83},
    {23, 42}, {29, 76},  {25, 49}, {25, 69}, {26, 69}, {25, 92}, {24, 75}, {33, 90}, {28, 78}, {23, 52}, {30, 83},
    {34, 75}, {41, 102}, {23, 69}, {16, 23}, {26, 80}, {37, 98}, {36, 69}, {23, 45}, {27, 59}, {25, 57},
}};
/// Of 1,017 prompts, in order of length, every 32nd.
constexpr std::array<std::int64_t, 32> prompt_lengths{
    16, 19, 19, 20, 21, 21, 21, 22, 22, 23, 23, 24, 24, 25, 25, 25,
    25, 26, 26, 26, 27, 27, 27, 27, 28, 29, 30, 31, 31, 32, 37, 46,
};

/// The emulator takes an eighth of a row, and few rows.
constexpr std::int64_t least(std::int64_t tokens) { return tiny ? tokens / 8 : tokens; }

std::vector<llama::Sequence> rows_of(const llama::Config& c, const std::array<Lengths, 32>& lengths,
                                     std::uint64_t seed) {
    std::vector<llama::Sequence> out;
    for (std::size_t i = 0; i < (tiny ? 4 : lengths.size()); ++i)
        out.push_back({.ids = random_ids(least(lengths[i].all), c.vocab_size, seed + i),
                       .first_target = least(lengths[i].prompt)});
    return out;
}

}  // namespace

llama::Config llama_config(std::int64_t layers) {
    llama::Config c;
    c.hidden_size = tiny ? 64 : 4096;
    c.intermediate_size = tiny ? 96 : 11008;
    c.num_layers = layers;
    c.num_heads = c.num_kv_heads = tiny ? 2 : 32;
    c.head_dim = c.hidden_size / c.num_heads;
    c.vocab_size = tiny ? 64 : 32000;
    c.max_position_embeddings = 4096;
    return c;
}

llama::StateDict weights_on_device(const llama::Config& c) {
    llama::StateDict weights;
    for (const auto& [name, shape] : llama::expected_weights(c))
        weights[name] = shape.size() == 1
                            ? Tensor::full(shape, DType::bf16, 1.0, cuda_device)
                            : random_on_device(shape, DType::bf16, checksum(name.data(), name.size()), 0.02);
    return weights;
}

void require_memory(double bytes) {
    const double there = static_cast<double>(tensor::cuda::device_memory().free);
    require(tiny || bytes <= there, "needs ", static_cast<std::int64_t>(bytes / 1e9), " GB, ",
            static_cast<std::int64_t>(there / 1e9), " are free");
}

std::vector<llama::Sequence> one_sequence(const llama::Config& c) { return random_sequences(c, {sequence_length}); }

TofuRows tofu_rows(const llama::Config& c) {
    TofuRows out{rows_of(c, forget_lengths, 100), rows_of(c, retain_lengths, 200), {}};
    const auto n = static_cast<std::int64_t>(out.forget.size());
    for (std::int64_t i = 0; i < n; ++i)
        out.partners.push_back(out.retain[static_cast<std::size_t>(unlearn::paired_row(n, 42, 0, i))]);
    return out;
}

std::vector<std::vector<std::int32_t>> tofu_prompts(const llama::Config& c) {
    std::vector<std::vector<std::int32_t>> out;
    for (std::size_t i = 0; i < (tiny ? 6 : 1017); ++i)
        out.push_back(random_ids(least(prompt_lengths[i % prompt_lengths.size()]), c.vocab_size, 1000 + i));
    return out;
}

std::vector<std::vector<std::int32_t>> one_prompt(const llama::Config& c) {
    return {random_ids(least(32), c.vocab_size, 999)};
}

}  // namespace uipe::bench
