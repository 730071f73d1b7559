// The flags that say how and where the optimizer keeps its state.
#pragma once

#include <CLI/CLI.hpp>

#include "nn/optimizer.h"

namespace uipe::unlearn {

struct OptimizerArguments {
    std::string moments = "f32";
    std::string offload = "none";

    /// Sets what the flags say. InputError for other values than theirs.
    void apply(nn::AdamWOptions& options) const;
};

void add_optimizer_options(CLI::App& command, OptimizerArguments& arguments);

}  // namespace uipe::unlearn
