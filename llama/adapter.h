// LoRA adapters (Hu et al. 2021) as peft keeps them: a folder of adapter_config.json and adapter_model.safetensors.
#pragma once

#include <optional>

#include "llama/config.h"
#include "llama/safetensors.h"

namespace uipe::llama {

/// The matrices of a layer that can have an adapter: "q_proj", …, "down_proj", in the order of the forward pass.
const std::vector<std::string>& lora_targets();

struct LoraConfig {
    std::int64_t rank = 0;  // r; 0: no adapter
    double alpha = 0;       // the product B A counts alpha / r times
    double dropout = 0;     // the share of an adapter's inputs that is dropped while it is trained
    std::vector<std::string> targets{"q_proj", "v_proj"};
    std::string base = {};  // the model folder or the name that it was trained on; may be empty

    double scale() const { return alpha / static_cast<double>(rank); }
    bool operator==(const LoraConfig&) const = default;
};

/// An adapter's matrices are named as in peft, without its prefix "base_model.model.":
/// "model.layers.0.self_attn.q_proj.lora_A.weight" [r,C] and "….lora_B.weight" [N,r].
struct Adapter {
    LoraConfig config;
    StateDict weights;
};

/// Throws InputError, beginning with `where`, unless rank, alpha, dropout and targets make sense.
void check_lora(const LoraConfig& config, const std::string& where);

/// Name and shape of every matrix of an adapter for a model.
std::map<std::string, tensor::Shape> expected_adapter(const Config& model, const LoraConfig& config);

/// An adapter that does nothing yet, in f32: A uniform within ±1/sqrt(C), B = 0. Those of one seed are alike whatever
/// their targets.
Adapter fresh_adapter(const Config& model, const LoraConfig& config, std::uint64_t seed);

/// Whether every B is zero: the model is then its base.
bool is_zero(const Adapter& adapter);

/// The weights of a model with the adapter's products added to those of its targets. These are in the accumulator's
/// type, because in bf16 an update of less than half an ulp would be lost; the others are shared.
StateDict merged(const StateDict& weights, const Adapter& adapter);

/// Whether a folder is an adapter's.
bool is_adapter(const fs::path& folder);

/// The adapter_config.json of a folder. InputError names the file, the key and what is supported: other kinds of
/// adapters, biases, and settings that differ between layers are refused.
LoraConfig read_lora_config(const fs::path& folder);

/// The adapter in a folder, for this model, mapped from the file. InputError names the tensor, the file and both
/// shapes.
Adapter read_adapter(const fs::path& folder, const Config& model);

/// Writes a folder that peft loads; matrices in `dtype`, or else as they are, from any device. It is whole or not
/// there, and an existing one is replaced.
void write_adapter(const fs::path& folder, const Adapter& adapter, std::optional<tensor::DType> dtype = {});

}  // namespace uipe::llama
