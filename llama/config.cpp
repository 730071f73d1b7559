#include "llama/config.h"

#include <algorithm>
#include <cmath>

#include "llama/keys.h"

namespace uipe::llama {
namespace {

// Far above any model, and low enough that no product of sizes below overflows 64 bits.
constexpr std::int64_t max_width = 1 << 20;
constexpr std::int64_t max_layers = 1 << 12;
constexpr std::int64_t max_vocabulary = 1 << 24;
constexpr std::int64_t max_positions = 1 << 30;

std::int32_t to_token(const Keys& keys, const char* key, const Json& value) {
    const std::int64_t id = keys.to_integer(key, value);
    require_input(0 <= id && id < max_vocabulary, keys.where(), ": ", key, " is ", id, "; a token id is needed");
    return static_cast<std::int32_t>(id);
}

void must_be_off(const Keys& keys, const char* key) {
    require_input(!keys.boolean(key), keys.where(), ": ", key,
                  " is true, which is not supported; use a Llama without biases");
}

/// Refuses every RoPE but the plain one, in the spelling of transformers 4 (rope_scaling) and 5 (rope_parameters).
void check_rope_kind(const Keys& keys, const char* key) {
    const Json* rope = keys.find(key);
    if (rope == nullptr) return;
    require_input(rope->is_object(), keys.where(), ": ", key, " is ", shown(*rope), "; an object or null is needed");
    const Keys inner(*rope, cat(keys.where(), ": ", key));
    const std::string kind = inner.text("rope_type", inner.text("type", "default"));
    require_input(kind == "default", keys.where(), ": ", key, " asks for \"", kind,
                  "\" scaling, which is not supported; use a model with plain RoPE");
}

double read_rope_theta(const Keys& keys) {
    check_rope_kind(keys, "rope_scaling");
    check_rope_kind(keys, "rope_parameters");
    const double outer = keys.number("rope_theta", 10000.0);
    const Json* rope = keys.find("rope_parameters");
    if (rope == nullptr) return outer;
    const double inner = Keys(*rope, cat(keys.where(), ": rope_parameters")).number("rope_theta", outer);
    require_input(keys.find("rope_theta") == nullptr || inner == outer, keys.where(), ": rope_theta is ", outer,
                  " but rope_parameters.rope_theta is ", inner, "; remove the wrong one");
    return inner;
}

std::vector<std::int32_t> read_eos(const Keys& keys) {
    const Json* value = keys.find("eos_token_id");
    if (value == nullptr) return {2};
    if (!value->is_array()) return {to_token(keys, "eos_token_id", *value)};
    std::vector<std::int32_t> ids;
    for (const Json& id : *value) ids.push_back(to_token(keys, "eos_token_id", id));
    return ids;
}

void check_size(const std::string& where, const char* key, std::int64_t value, std::int64_t limit) {
    require_input(0 < value && value <= limit, where, ": ", key, " is ", value, "; it must lie in [1, ", limit, "]");
}

}  // namespace

void check_config(const Config& c, const std::string& where) {
    check_size(where, "hidden_size", c.hidden_size, max_width);
    check_size(where, "intermediate_size", c.intermediate_size, max_width);
    check_size(where, "num_hidden_layers", c.num_layers, max_layers);
    check_size(where, "num_attention_heads", c.num_heads, max_width);
    check_size(where, "num_key_value_heads", c.num_kv_heads, c.num_heads);
    check_size(where, "head_dim", c.head_dim, max_width / c.num_heads);
    check_size(where, "vocab_size", c.vocab_size, max_vocabulary);
    check_size(where, "max_position_embeddings", c.max_position_embeddings, max_positions);
    require_input(c.num_heads % c.num_kv_heads == 0, where, ": num_attention_heads ", c.num_heads,
                  " is no multiple of num_key_value_heads ", c.num_kv_heads);
    require_input(c.head_dim % 2 == 0, where, ": head_dim is ", c.head_dim, "; RoPE needs an even one");
    require_input(c.rms_norm_eps > 0 && c.rms_norm_eps < 1, where, ": rms_norm_eps is ", c.rms_norm_eps,
                  "; it must lie between 0 and 1");
    require_input(c.rope_theta >= 1 && std::isfinite(c.rope_theta), where, ": rope_theta is ", c.rope_theta,
                  "; it must be at least 1");
    require_input(c.initializer_range > 0 && c.initializer_range <= 1, where, ": initializer_range is ",
                  c.initializer_range, "; it must lie in (0, 1]");
    require_input(0 <= c.bos_token_id && c.bos_token_id < c.vocab_size, where, ": bos_token_id ", c.bos_token_id,
                  " is outside the vocabulary of ", c.vocab_size);
    require_input(!c.eos_token_ids.empty(), where, ": eos_token_id is an empty list; generation would never stop");
    for (const std::int32_t id : c.eos_token_ids)
        require_input(0 <= id && id < c.vocab_size, where, ": eos_token_id ", id, " is outside the vocabulary of ",
                      c.vocab_size);
    const auto known = {"float64", "float32", "bfloat16", "float16"};
    require_input(std::find(known.begin(), known.end(), c.torch_dtype) != known.end(), where, ": dtype is \"",
                  c.torch_dtype, "\"; float64, float32, bfloat16 or float16 is needed");
}

Config read_config(const fs::path& file_or_folder) {
    const fs::path path = fs::is_directory(file_or_folder) ? file_or_folder / "config.json" : file_or_folder;
    const Json json = read_json(path);
    require_input(json.is_object(), path.string(), ": is ", shown(json), "; a JSON object is needed");
    const Keys keys(json, path.string());
    keys.must_be("model_type", "llama");
    keys.must_be("hidden_act", "silu");
    must_be_off(keys, "attention_bias");
    must_be_off(keys, "mlp_bias");
    require_input(keys.find("quantization_config") == nullptr, path.string(),
                  ": quantization_config is set; quantised weights are not supported, use the full model");
    Config c;
    c.hidden_size = keys.integer("hidden_size");
    c.intermediate_size = keys.integer("intermediate_size");
    c.num_layers = keys.integer("num_hidden_layers");
    c.num_heads = keys.integer("num_attention_heads");
    c.num_kv_heads = keys.integer("num_key_value_heads", c.num_heads);
    if (keys.find("head_dim") == nullptr)
        require_input(c.num_heads > 0 && c.hidden_size % c.num_heads == 0, path.string(), ": hidden_size ",
                      c.hidden_size, " is no multiple of num_attention_heads ", c.num_heads, "; give head_dim");
    c.head_dim = keys.find("head_dim") != nullptr ? keys.integer("head_dim") : c.hidden_size / c.num_heads;
    c.vocab_size = keys.integer("vocab_size");
    c.max_position_embeddings = keys.integer("max_position_embeddings", c.max_position_embeddings);
    c.rms_norm_eps = keys.number("rms_norm_eps", c.rms_norm_eps);
    c.rope_theta = read_rope_theta(keys);
    c.tie_word_embeddings = keys.boolean("tie_word_embeddings");
    if (const Json* bos = keys.find("bos_token_id")) c.bos_token_id = to_token(keys, "bos_token_id", *bos);
    c.eos_token_ids = read_eos(keys);
    c.torch_dtype = keys.text("torch_dtype", keys.text("dtype", c.torch_dtype));
    c.initializer_range = keys.number("initializer_range", c.initializer_range);
    check_config(c, path.string());
    return c;
}

void write_config(const fs::path& folder, const Config& c) {
    check_config(c, (folder / "config.json").string());
    Json eos = c.eos_token_ids;
    if (c.eos_token_ids.size() == 1) eos = c.eos_token_ids.front();
    write_json(folder / "config.json",
               {{"architectures", {"LlamaForCausalLM"}},
                {"model_type", "llama"},
                {"hidden_size", c.hidden_size},
                {"intermediate_size", c.intermediate_size},
                {"num_hidden_layers", c.num_layers},
                {"num_attention_heads", c.num_heads},
                {"num_key_value_heads", c.num_kv_heads},
                {"head_dim", c.head_dim},
                {"vocab_size", c.vocab_size},
                {"max_position_embeddings", c.max_position_embeddings},
                {"hidden_act", "silu"},
                {"rms_norm_eps", c.rms_norm_eps},
                {"rope_theta", c.rope_theta},  // where transformers 4 looks
                {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", c.rope_theta}}},  // and transformers 5
                {"rope_scaling", nullptr},
                {"attention_bias", false},
                {"mlp_bias", false},
                {"tie_word_embeddings", c.tie_word_embeddings},
                {"bos_token_id", c.bos_token_id},
                {"eos_token_id", eos},
                {"torch_dtype", c.torch_dtype},
                {"initializer_range", c.initializer_range},
                {"use_cache", true}});
}

std::int64_t parameter_count(const Config& config) {
    std::int64_t count = 0;
    for (const auto& [name, shape] : expected_weights(config)) count += tensor::numel(shape);
    return count;
}

std::map<std::string, tensor::Shape> expected_weights(const Config& c) {
    const std::int64_t C = c.hidden_size;
    const std::int64_t F = c.intermediate_size;
    const std::int64_t HD = c.num_heads * c.head_dim;
    const std::int64_t KD = c.num_kv_heads * c.head_dim;
    std::map<std::string, tensor::Shape> weights = {{"model.embed_tokens.weight", {c.vocab_size, C}},
                                                    {"model.norm.weight", {C}}};
    if (!c.tie_word_embeddings) weights["lm_head.weight"] = {c.vocab_size, C};
    for (std::int64_t i = 0; i < c.num_layers; ++i) {
        const std::string layer = cat("model.layers.", i, ".");
        weights[layer + "input_layernorm.weight"] = {C};
        weights[layer + "self_attn.q_proj.weight"] = {HD, C};
        weights[layer + "self_attn.k_proj.weight"] = {KD, C};
        weights[layer + "self_attn.v_proj.weight"] = {KD, C};
        weights[layer + "self_attn.o_proj.weight"] = {C, HD};
        weights[layer + "post_attention_layernorm.weight"] = {C};
        weights[layer + "mlp.gate_proj.weight"] = {F, C};
        weights[layer + "mlp.up_proj.weight"] = {F, C};
        weights[layer + "mlp.down_proj.weight"] = {C, F};
    }
    return weights;
}

}  // namespace uipe::llama
