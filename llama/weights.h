// The weights of a Hugging Face model folder: one safetensors file, or shards and their index.
#pragma once

#include <cstdint>

#include "llama/config.h"
#include "llama/safetensors.h"

namespace uipe::llama {

/// The weights of a folder, exactly those of expected_weights(config), each f64, f32 or bf16, mapped from the files.
/// A tied model's copy of the head is dropped. InputError names the tensor, the file and both shapes.
StateDict read_weights(const fs::path& folder, const Config& config);

/// Throws InputError naming `where`, the tensor and the element unless every element is finite.
void check_finite(const StateDict& weights, const std::string& where);

/// Writes a model folder that transformers loads: config.json (its dtype is that of the weights),
/// generation_config.json, model.safetensors or shards of at most `max_shard_bytes` (a larger tensor is a shard of its
/// own) and their index, and, when `tokenizer` names what Tokenizer::load takes, tokenizer.model and
/// tokenizer_config.json. Weights are written in `dtype`, or else as they are, from any device; `fetch`, where given,
/// is asked for each in order of name. The folder is whole or not there; an existing one is replaced, also when
/// `weights` are mapped from it. Error when the weights are not those of expected_weights(config).
void write_model(const fs::path& folder, const Config& config, const StateDict& weights, const fs::path& tokenizer = {},
                 std::optional<tensor::DType> dtype = {}, std::int64_t max_shard_bytes = 5'000'000'000,
                 const Fetch& fetch = {});

}  // namespace uipe::llama
