#include "llama/config.h"

#include <limits>

#include "support.h"
#include "tensor/base/json.h"

namespace uipe::llama {
namespace {

Json llama2_7b() {
    return {{"architectures", {"LlamaForCausalLM"}},
            {"model_type", "llama"},
            {"hidden_act", "silu"},
            {"hidden_size", 4096},
            {"intermediate_size", 11008},
            {"num_hidden_layers", 32},
            {"num_attention_heads", 32},
            {"num_key_value_heads", 32},
            {"vocab_size", 32000},
            {"max_position_embeddings", 4096},
            {"rms_norm_eps", 1e-5},
            {"rope_scaling", nullptr},
            {"tie_word_embeddings", false},
            {"torch_dtype", "float16"},
            {"bos_token_id", 1},
            {"eos_token_id", 2}};
}

Config read(const Json& json) {
    const TemporaryFolder folder;
    write_json(folder / "config.json", json);
    return read_config(folder.path());
}

/// The message of reading Llama-2's config with one key changed.
std::string fault(const char* key, const Json& value) {
    return message_of([&] {
        Json json = llama2_7b();
        json[key] = value;
        read(json);
    });
}

TEST(Config, ReadsLlama2AndCountsItsParameters) {
    const Config c = read(llama2_7b());
    EXPECT_EQ(c.head_dim, 128);
    EXPECT_EQ(c.torch_dtype, "float16");
    EXPECT_EQ(c.eos_token_ids, std::vector<std::int32_t>{2});
    EXPECT_DOUBLE_EQ(c.rope_theta, 10000.0);
    EXPECT_EQ(parameter_count(c), 6738415616);  // the figure Meta and Hugging Face publish
}

TEST(Config, CountsLlama32WithATiedHeadOnce) {
    Config c = small_config();
    c.hidden_size = 2048;
    c.intermediate_size = 8192;
    c.num_layers = 16;
    c.num_heads = 32;
    c.num_kv_heads = 8;
    c.head_dim = 64;
    c.vocab_size = 128256;
    c.tie_word_embeddings = true;
    EXPECT_EQ(parameter_count(c), 1235814400);  // Llama-3.2-1B's published size
    EXPECT_EQ(expected_weights(c).count("lm_head.weight"), 0U);
}

TEST(Config, ReadsDefaultsListsAndBothSpellings) {
    Json json = llama2_7b();
    json.erase("num_key_value_heads");
    json.erase("torch_dtype");
    json["dtype"] = "bfloat16";
    json["eos_token_id"] = {2, 7};
    json["head_dim"] = 64;
    json["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 500000.0}};
    const Config c = read(json);
    EXPECT_EQ(c.num_kv_heads, 32);
    EXPECT_EQ(c.torch_dtype, "bfloat16");
    EXPECT_EQ(c.eos_token_ids, (std::vector<std::int32_t>{2, 7}));
    EXPECT_EQ(c.head_dim, 64);
    EXPECT_DOUBLE_EQ(c.rope_theta, 500000.0);
    json.erase("rope_parameters");
    json["rope_theta"] = 250000;
    EXPECT_DOUBLE_EQ(read(json).rope_theta, 250000.0);
}

TEST(Config, ComesBackAsWritten) {
    const TemporaryFolder folder;
    Config c = small_config();
    c.rope_theta = 123456.0;
    c.tie_word_embeddings = true;
    c.bos_token_id = 3;
    c.eos_token_ids = {4, 5};
    c.torch_dtype = "bfloat16";
    c.initializer_range = 0.125;
    write_config(folder.path(), c);
    EXPECT_EQ(read_config(folder.path()), c);
    EXPECT_EQ(read_config(folder / "config.json"), c);
}

TEST(Config, RefusesWhatTheModelCannotDo) {
    EXPECT_SAYS(fault("model_type", "mistral"), "only \"llama\" is supported");
    EXPECT_SAYS(fault("hidden_act", "gelu"), "only \"silu\" is supported");
    EXPECT_SAYS(fault("attention_bias", true), "attention_bias is true");
    EXPECT_SAYS(fault("mlp_bias", true), "mlp_bias is true");
    EXPECT_SAYS(fault("rope_scaling", Json({{"type", "linear"}, {"factor", 2.0}})), "\"linear\" scaling");
    EXPECT_SAYS(fault("rope_parameters", Json({{"rope_type", "llama3"}})), "\"llama3\" scaling");
    EXPECT_SAYS(fault("quantization_config", Json({{"bits", 4}})), "quantised");
}

TEST(Config, RefusesContradictingThetas) {
    Json json = llama2_7b();
    json["rope_theta"] = 10000.0;
    json["rope_parameters"] = {{"rope_theta", 500000.0}};
    EXPECT_SAYS(message_of([&] { read(json); }), "rope_parameters.rope_theta is 500000");
}

TEST(Config, NamesTheKeyOfAHostileValue) {
    for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                            "num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings"})
        for (const Json& value : {Json(0), Json(-1), Json(1e18), Json(1000000000000000000), Json("many"), Json::array(),
                                  Json(true), Json(std::numeric_limits<std::uint64_t>::max()), Json(1.5)}) {
            const std::string message = fault(key, value);
            EXPECT_SAYS(message, key);
            EXPECT_SAYS(message, "config.json");
        }
    EXPECT_SAYS(fault("num_key_value_heads", 5), "no multiple of num_key_value_heads 5");
    EXPECT_SAYS(fault("num_attention_heads", 24), "give head_dim");
    EXPECT_SAYS(fault("head_dim", 63), "even");
    EXPECT_SAYS(fault("rms_norm_eps", 0), "rms_norm_eps");
    EXPECT_SAYS(fault("rms_norm_eps", "small"), "rms_norm_eps");
    EXPECT_SAYS(fault("rope_theta", -1), "rope_theta");
    EXPECT_SAYS(fault("initializer_range", 0), "initializer_range");
    EXPECT_SAYS(fault("tie_word_embeddings", "yes"), "true or false");
    EXPECT_SAYS(fault("bos_token_id", 32000), "outside the vocabulary of 32000");
    EXPECT_SAYS(fault("eos_token_id", Json::array()), "empty list");
    EXPECT_SAYS(fault("eos_token_id", Json({2, "end"})), "eos_token_id is \"end\"");
    EXPECT_SAYS(fault("torch_dtype", "int8"), "int8");
}

TEST(Config, RefusesFilesThatAreNoConfig) {
    const TemporaryFolder folder;
    EXPECT_SAYS(message_of([&] { read_config(folder.path()); }), "config.json");
    write_file(folder / "config.json", "[1, 2]");
    EXPECT_SAYS(message_of([&] { read_config(folder.path()); }), "a JSON object is needed");
    write_file(folder / "config.json", "{}");
    EXPECT_SAYS(message_of([&] { read_config(folder.path()); }), "hidden_size is missing");
}

}  // namespace
}  // namespace uipe::llama
