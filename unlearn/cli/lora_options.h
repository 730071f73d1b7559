// The flags that describe an adapter.
#pragma once

#include <CLI/CLI.hpp>

#include "llama/adapter.h"

namespace uipe::unlearn {

struct LoraArguments {
    llama::LoraConfig lora;
    std::string targets = "q_proj,v_proj";

    /// The adapter that the flags describe, or rank 0. InputError for values that no adapter has.
    llama::LoraConfig finished() const;
};

void add_lora_options(CLI::App& command, LoraArguments& arguments);

}  // namespace uipe::unlearn
