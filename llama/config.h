// A model's sizes and constants: config.json of a Hugging Face Llama folder.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tensor/base/file.h"
#include "tensor/tensor.h"

namespace uipe::llama {

struct Config {
    std::int64_t hidden_size = 0;        // C
    std::int64_t intermediate_size = 0;  // F
    std::int64_t num_layers = 0;         // L
    std::int64_t num_heads = 0;          // H
    std::int64_t num_kv_heads = 0;       // K, divides H
    std::int64_t head_dim = 0;           // D, even; H D may differ from C
    std::int64_t vocab_size = 0;         // V
    std::int64_t max_position_embeddings = 2048;
    double rms_norm_eps = 1e-6;
    double rope_theta = 10000.0;
    bool tie_word_embeddings = false;
    std::int32_t bos_token_id = 1;
    std::vector<std::int32_t> eos_token_ids = {2};  // at least one; generation stops at any, training appends the first
    std::string torch_dtype = "float32";            // of the weights in the folder: float64, float32, bfloat16, float16
    double initializer_range = 0.02;                // standard deviation of fresh weights

    bool operator==(const Config&) const = default;
};

/// Throws InputError, beginning with `where`, unless every size is positive, bounded and fits the others.
void check_config(const Config& config, const std::string& where);

/// Reads a config.json, or the one of a model folder. Keys that transformers gives a default may be missing.
/// InputError names the file, the key, its value and what is supported: another architecture, activation, RoPE scaling,
/// biases and quantised weights are refused.
Config read_config(const fs::path& file_or_folder);

/// Writes folder/config.json so that transformers 4 and 5 load the folder as LlamaForCausalLM.
void write_config(const fs::path& folder, const Config& config);

/// The trained numbers of a model; a tied embedding counts once.
std::int64_t parameter_count(const Config& config);

/// Name and shape of every weight, by the names of Hugging Face. Matrices are [out, in]. A tied model has no
/// lm_head.weight.
std::map<std::string, tensor::Shape> expected_weights(const Config& config);

}  // namespace uipe::llama
