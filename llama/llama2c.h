// Models of llama2.c: the first ("legacy", version 0) .bin format, fp32.
#pragma once

#include "llama/config.h"
#include "llama/safetensors.h"

namespace uipe::llama {

struct Llama2cModel {
    Config config;
    StateDict weights;
};

/// Reads a .bin: seven int32 {C, F, L, H, K, V (negative: untied head), max positions}, then fp32 tensors.
/// Query and key rows are put from Meta's order (a rotary pair is two neighbouring rows) into Hugging Face's (the pair
/// is D/2 apart). InputError when a size is out of bounds or the file's length is not what the sizes ask for.
Llama2cModel read_llama2c(const fs::path& path);

}  // namespace uipe::llama
