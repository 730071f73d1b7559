#include "llama/llama2c.h"

#include <array>
#include <cstring>
#include <limits>

#include "support.h"

namespace uipe::llama {
namespace {

using Header = std::array<std::int32_t, 7>;

/// A file of these sizes whose every float is its index in the file.
std::string counting_file(const Header& header, std::int64_t floats) {
    std::string bytes(reinterpret_cast<const char*>(header.data()), sizeof header);
    for (std::int64_t i = 0; i < floats; ++i) {
        const auto value = static_cast<float>(i);
        bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
    }
    return bytes;
}

Llama2cModel read(const std::string& bytes) {
    const TemporaryFolder folder;
    write_file(folder / "m.bin", bytes);
    return read_llama2c(folder / "m.bin");
}

// C 8, F 6, L 2, H 2, K 1, V 3, 5 positions; D 4.
constexpr Header tiny = {8, 6, 2, 2, 1, 3, 5};
constexpr std::int64_t tiny_floats = 3 * 8 + 2 * (8 + 64 + 32 + 32 + 64 + 8 + 3 * 48) + 8 + 5 * 4;

TEST(Llama2c, ReadsItsTensorsInOrder) {
    const Llama2cModel m = read(counting_file(tiny, tiny_floats));
    EXPECT_TRUE(m.config.tie_word_embeddings);
    EXPECT_EQ(m.config.head_dim, 4);
    EXPECT_EQ(m.config.max_position_embeddings, 5);
    EXPECT_DOUBLE_EQ(m.config.rms_norm_eps, 1e-5);
    const auto expected = expected_weights(m.config);
    ASSERT_EQ(m.weights.size(), expected.size());
    for (const auto& [name, shape] : expected) EXPECT_EQ(m.weights.at(name).shape(), shape) << name;
    const auto first = [&](const char* name) { return m.weights.at(name).data<float>()[0]; };
    EXPECT_EQ(first("model.embed_tokens.weight"), 0);
    EXPECT_EQ(first("model.layers.0.input_layernorm.weight"), 24);
    EXPECT_EQ(first("model.layers.1.input_layernorm.weight"), 32);
    EXPECT_EQ(first("model.layers.0.self_attn.q_proj.weight"), 40);
    EXPECT_EQ(first("model.layers.1.self_attn.q_proj.weight"), 104);
    EXPECT_EQ(first("model.layers.0.self_attn.k_proj.weight"), 168);
    EXPECT_EQ(first("model.layers.0.self_attn.v_proj.weight"), 232);
    EXPECT_EQ(first("model.layers.0.self_attn.o_proj.weight"), 296);
    EXPECT_EQ(first("model.layers.0.post_attention_layernorm.weight"), 424);
    EXPECT_EQ(first("model.layers.0.mlp.gate_proj.weight"), 440);
    EXPECT_EQ(first("model.layers.0.mlp.down_proj.weight"), 536);
    EXPECT_EQ(first("model.layers.1.mlp.up_proj.weight"), 680);
    EXPECT_EQ(first("model.norm.weight"), 728);
}

TEST(Llama2c, PutsRotaryPairsHalfAHeadApart) {
    const Llama2cModel m = read(counting_file(tiny, tiny_floats));
    const auto rows_of = [&](const char* name, float start) {
        const tensor::Tensor& w = m.weights.at(name);
        std::vector<int> rows;  // where each row stood in the file
        for (std::int64_t r = 0; r < w.dim(0); ++r)
            rows.push_back(static_cast<int>((w.data<float>()[r * w.dim(1)] - start) / static_cast<float>(w.dim(1))));
        return rows;
    };
    EXPECT_EQ(rows_of("model.layers.0.self_attn.q_proj.weight", 40), (std::vector<int>{0, 2, 1, 3, 4, 6, 5, 7}));
    EXPECT_EQ(rows_of("model.layers.1.self_attn.k_proj.weight", 200), (std::vector<int>{0, 2, 1, 3}));
    EXPECT_EQ(rows_of("model.layers.0.self_attn.v_proj.weight", 232), (std::vector<int>{0, 1, 2, 3}));
}

TEST(Llama2c, AnUntiedHeadFollowsTheRotaryTables) {
    Header header = tiny;
    header[5] = -3;
    const Llama2cModel m = read(counting_file(header, tiny_floats + 24));
    EXPECT_FALSE(m.config.tie_word_embeddings);
    EXPECT_EQ(m.config.vocab_size, 3);
    EXPECT_EQ(m.weights.at("lm_head.weight").data<float>()[0], static_cast<float>(tiny_floats));
}

TEST(Llama2c, ReadsAPublishedModel) {
    const auto data = real_data();
    if (!data) GTEST_SKIP() << "set UIPE_DATA to the folder of real data";
    const Llama2cModel m = read_llama2c(*data / "stories260K" / "stories260K.bin");
    EXPECT_EQ(m.config.hidden_size, 64);
    EXPECT_EQ(m.config.intermediate_size, 172);
    EXPECT_EQ(m.config.num_layers, 5);
    EXPECT_EQ(m.config.num_heads, 8);
    EXPECT_EQ(m.config.num_kv_heads, 4);
    EXPECT_EQ(m.config.vocab_size, 512);
    EXPECT_TRUE(m.config.tie_word_embeddings);
    EXPECT_EQ(parameter_count(m.config), 260032);
    // RMSNorm gains of a trained model lie near one: a wrong offset would show.
    for (const char* name : {"model.norm.weight", "model.layers.4.post_attention_layernorm.weight"})
        for (const float gain : m.weights.at(name).to_vector<float>()) {
            EXPECT_GT(gain, 0.0F) << name;
            EXPECT_LT(gain, 20.0F) << name;
        }
}

TEST(Llama2c, RefusesHostileSizes) {
    const std::string good = counting_file(tiny, tiny_floats);
    const auto fault = [](const std::string& bytes) {
        const std::string message = message_of([&] { read(bytes); });
        EXPECT_SAYS(message, "m.bin");
        return message;
    };
    EXPECT_SAYS(fault(""), "too few");
    EXPECT_SAYS(fault(good.substr(0, 27)), "too few");
    EXPECT_SAYS(fault(good.substr(0, good.size() - 1)), "its sizes ask for");
    EXPECT_SAYS(fault(good + "x"), "its sizes ask for");
    for (std::size_t field = 0; field < tiny.size(); ++field)
        for (const std::int32_t value : {0, -1, 1000003, std::numeric_limits<std::int32_t>::max(),
                                         std::numeric_limits<std::int32_t>::min(), 0x616b3432}) {
            if (field == 5 && value == -1) continue;  // an untied vocabulary of one: tested by its length
            Header header = tiny;
            header[field] = value;
            std::string bad = good;
            std::memcpy(bad.data(), header.data(), sizeof header);
            fault(bad);
        }
    Header later = tiny;
    later[0] = 0x616b3432;
    EXPECT_SAYS(fault(counting_file(later, 4)), "legacy format");
}

}  // namespace
}  // namespace uipe::llama
