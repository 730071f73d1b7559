// The sizes of well-known models, for plans: no weights are needed.
#pragma once

#include "llama/config.h"

namespace uipe::llama {

/// "llama2-7b", "llama2-13b", "llama2-70b", "tinyllama-1.1b", "stories-110m" or "stories-15m"; InputError lists them.
Config preset(const std::string& name);
/// Their names, for help: "llama2-7b, …".
std::string preset_names();

}  // namespace uipe::llama
