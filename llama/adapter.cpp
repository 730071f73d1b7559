#include "llama/adapter.h"

#include <algorithm>
#include <cmath>

#include "llama/keys.h"
#include "llama/weights.h"
#include "tensor/ops.h"

namespace uipe::llama {
namespace {

using tensor::DType;
using tensor::Tensor;

constexpr const char* config_name = "adapter_config.json";
constexpr const char* weights_name = "adapter_model.safetensors";
constexpr const char* prefix = "base_model.model.";
constexpr const char* a_suffix = "lora_A.weight";
constexpr const char* b_suffix = "lora_B.weight";
constexpr std::int64_t max_rank = 1 << 20;  // no matrix is wider

/// The matrices that `targets` name, with their shapes, in the order of their names: "model.layers.0.mlp.up_proj.".
std::map<std::string, tensor::Shape> matrices(const Config& model, const std::vector<std::string>& targets) {
    std::map<std::string, tensor::Shape> out;
    for (const auto& [name, shape] : expected_weights(model))
        for (const std::string& target : targets)
            if (name.ends_with("." + target + ".weight")) out[name.substr(0, name.size() - 6)] = shape;
    return out;
}

/// Whether a setting is as if it were not there.
bool is_off(const Json& value) {
    return value.is_null() || value == false || value == "" ||
           ((value.is_object() || value.is_array()) && value.empty());
}

/// Refuses what would change the product or what it is added to.
void check_plain(const Keys& keys) {
    keys.must_be("peft_type", "LORA");
    keys.must_be("task_type", "CAUSAL_LM");
    keys.must_be("bias", "none");
    for (const char* key :
         {"use_dora", "use_qalora", "use_bdlora", "lora_bias", "fan_in_fan_out", "modules_to_save",
          "layers_to_transform", "layers_pattern", "layer_replication", "rank_pattern", "alpha_pattern",
          "exclude_modules", "target_parameters", "trainable_token_indices", "alora_invocation_tokens", "arrow_config",
          "kasa_config", "velora_config", "monteclora_config"}) {
        const Json* value = keys.find(key);
        require_input(value == nullptr || is_off(*value), keys.where(), ": ", key, " is ", value ? shown(*value) : "",
                      ", which is not supported; merge the adapter with peft");
    }
    // These begin from a base of other weights.
    const Json* init = keys.find("init_lora_weights");
    const bool sound =
        init == nullptr || init->is_boolean() || *init == "gaussian" || *init == "orthogonal" || *init == "eva";
    require_input(sound, keys.where(), ": init_lora_weights is ", init ? shown(*init) : "",
                  ", which changes the base; convert the adapter with peft to one of the original base");
}

std::vector<std::string> read_targets(const Keys& keys) {
    const Json* value = keys.find("target_modules");
    if (value != nullptr && *value == "all-linear") return lora_targets();
    require_input(value != nullptr && value->is_array(), keys.where(), ": target_modules is ",
                  value ? shown(*value) : "missing", "; a list of names of matrices is needed");
    std::vector<std::string> targets;
    for (const Json& name : *value) {
        require_input(name.is_string(), keys.where(), ": target_modules holds ", shown(name), "; names are needed");
        targets.push_back(name.get<std::string>());
    }
    return targets;
}

/// The targets in the order of lora_targets().
std::vector<std::string> in_order(const std::vector<std::string>& targets) {
    std::vector<std::string> out;
    for (const std::string& name : lora_targets())
        if (std::find(targets.begin(), targets.end(), name) != targets.end()) out.push_back(name);
    return out;
}

/// What peft's own files say of an adapter of ours, beside what is particular to it.
Json config_json(const LoraConfig& config) {
    const bool whole = config.alpha == std::floor(config.alpha) && std::abs(config.alpha) < 1e9;
    return {{"peft_type", "LORA"},
            {"task_type", "CAUSAL_LM"},
            {"base_model_name_or_path", config.base.empty() ? Json() : Json(config.base)},
            {"r", config.rank},
            {"lora_alpha", whole ? Json(static_cast<std::int64_t>(config.alpha)) : Json(config.alpha)},
            {"lora_dropout", config.dropout},
            {"target_modules", in_order(config.targets)},
            {"bias", "none"},
            {"fan_in_fan_out", false},
            {"inference_mode", true},
            {"init_lora_weights", true},
            {"use_rslora", false},
            {"use_dora", false},
            {"modules_to_save", nullptr},
            {"layers_to_transform", nullptr},
            {"layers_pattern", nullptr},
            {"rank_pattern", Json::object()},
            {"alpha_pattern", Json::object()}};
}

}  // namespace

const std::vector<std::string>& lora_targets() {
    static const std::vector<std::string> all{"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                              "gate_proj", "up_proj", "down_proj"};
    return all;
}

void check_lora(const LoraConfig& c, const std::string& where) {
    require_input(c.rank >= 1 && c.rank <= max_rank, where, ": the rank of an adapter is ", c.rank,
                  "; it must lie in [1, ", max_rank, "]");
    require_input(std::isfinite(c.alpha) && c.alpha != 0, where, ": the alpha of an adapter is ", c.alpha,
                  "; a number other than 0 is needed");
    require_input(c.dropout >= 0 && c.dropout < 1, where, ": the dropout of an adapter is ", c.dropout,
                  "; it must lie in [0, 1)");
    require_input(!c.targets.empty(), where, ": an adapter needs a matrix to stand beside");
    std::string known;
    for (const std::string& name : lora_targets()) known += (known.empty() ? "" : ", ") + name;
    for (const std::string& name : c.targets) {
        const auto& all = lora_targets();
        require_input(std::find(all.begin(), all.end(), name) != all.end(), where, ": unknown target ",
                      shown(Json(name)), " of an adapter; known: ", known);
        require_input(std::count(c.targets.begin(), c.targets.end(), name) == 1, where, ": target ", name,
                      " is named twice");
    }
}

std::map<std::string, tensor::Shape> expected_adapter(const Config& model, const LoraConfig& config) {
    std::map<std::string, tensor::Shape> out;
    for (const auto& [name, shape] : matrices(model, config.targets)) {
        out[name + a_suffix] = {config.rank, shape[1]};
        out[name + b_suffix] = {shape[0], config.rank};
    }
    return out;
}

Adapter fresh_adapter(const Config& model, const LoraConfig& config, std::uint64_t seed) {
    constexpr std::uint64_t first_stream = std::uint64_t{5} << 40;  // apart from those of weights and of training data
    Adapter out{config, {}};
    std::uint64_t stream = first_stream;
    for (const auto& [name, shape] : matrices(model, lora_targets())) {
        ++stream;
        if (matrices(model, config.targets).count(name) == 0) continue;
        const Tensor a = Tensor::empty({config.rank, shape[1]}, DType::f32);
        tensor::fill_uniform(a, 1.0 / std::sqrt(static_cast<double>(shape[1])), seed, stream);
        out.weights[name + a_suffix] = a;
        out.weights[name + b_suffix] = Tensor::zeros({shape[0], config.rank}, DType::f32);
    }
    return out;
}

bool is_zero(const Adapter& adapter) {
    return std::all_of(adapter.weights.begin(), adapter.weights.end(), [](const auto& item) {
        return !item.first.ends_with(b_suffix) || tensor::sum_of_squares(item.second) == 0.0;
    });
}

StateDict merged(const StateDict& weights, const Adapter& adapter) {
    StateDict out = weights;
    for (const auto& [name, a] : adapter.weights) {
        if (!name.ends_with(a_suffix)) continue;
        const std::string matrix = name.substr(0, name.size() - std::string(a_suffix).size());
        const Tensor& w = weights.at(matrix + "weight");
        const DType dtype = tensor::accumulator_of(w.dtype());
        const auto placed = [&](const Tensor& x) { return x.to(dtype).to(w.device()); };
        const Tensor y = Tensor::empty(w.shape(), dtype, w.device());
        tensor::matmul(y, placed(adapter.weights.at(matrix + b_suffix)), false, placed(a), false);
        tensor::axpby(y, 1.0, w, adapter.config.scale());
        out[matrix + "weight"] = y;
    }
    return out;
}

bool is_adapter(const fs::path& folder) { return fs::exists(folder / config_name); }

LoraConfig read_lora_config(const fs::path& folder) {
    const fs::path path = folder / config_name;
    const Json json = read_json(path);
    require_input(json.is_object(), path.string(), ": is ", shown(json), "; a JSON object is needed");
    const Keys keys(json, path.string());
    check_plain(keys);
    LoraConfig c;
    c.rank = keys.integer("r", 8);
    c.alpha = keys.number("lora_alpha", 8);
    c.dropout = keys.number("lora_dropout", 0);
    c.targets = read_targets(keys);
    c.base = keys.text("base_model_name_or_path", "");
    check_lora(c, path.string());
    if (keys.boolean("use_rslora")) c.alpha *= std::sqrt(static_cast<double>(c.rank));  // which divides by sqrt(r)
    c.targets = in_order(c.targets);
    return c;
}

Adapter read_adapter(const fs::path& folder, const Config& model) {
    Adapter out{read_lora_config(folder), {}};
    const fs::path path = folder / weights_name;
    require_input(fs::exists(path), folder.string(), ": has no ", weights_name,
                  "; save the adapter with peft and safetensors");
    const auto expected = expected_adapter(model, out.config);
    for (const auto& [name, t] : read_safetensors(path)) {
        const std::string place = cat(path.string(), ": tensor ", shown(Json(name)));
        const auto entry =
            name.starts_with(prefix) ? expected.find(name.substr(std::string(prefix).size())) : expected.end();
        require_input(entry != expected.end(), place, " is no part of this adapter of a model of ", model.num_layers,
                      " layers; does ", config_name, " fit it, and is it the base it was trained on?");
        require_input(t.shape() == entry->second, place, " has shape ", tensor::to_string(t.shape()), ", ", config_name,
                      " and the base ask for ", tensor::to_string(entry->second));
        require_input(t.dtype() != DType::i32, place, " holds integers; floating-point weights are needed");
        out.weights[entry->first] = t;
    }
    for (const auto& [name, shape] : expected)
        require_input(out.weights.count(name) != 0, path.string(), ": tensor ", prefix, name, " of shape ",
                      tensor::to_string(shape), " is missing; does ", config_name, " fit these weights?");
    check_finite(out.weights, path.string());
    return out;
}

void write_adapter(const fs::path& folder, const Adapter& adapter, std::optional<DType> dtype) {
    check_lora(adapter.config, folder.string());
    StateDict named;
    for (const auto& [name, t] : adapter.weights) named[prefix + name] = t;
    write_folder(folder, [&](const fs::path& temporary) {
        write_json(temporary / config_name, config_json(adapter.config));
        write_safetensors(temporary / weights_name, named, dtype);
    });
}

}  // namespace uipe::llama
