// The options by which an alpha is given or chosen, and what takes them up.
#pragma once

#include "unlearn/cli/command.h"
#include "unlearn/session.h"

namespace uipe::unlearn {

struct AlphaOptions {
    std::vector<std::string> alpha;  // numbers, or auto
    std::string rule;                // of auto; empty: the best that the files allow
    double utility_budget = 0.05;

    bool automatic() const { return alpha == std::vector<std::string>{"auto"}; }
};

void add_alpha_options(CLI::App& command, AlphaOptions& options, const std::string& what);

/// InputError for what is no number or named twice, and for an auto whose rule lacks what it needs.
void check(const AlphaOptions& options, const EvalSettings& evaluation);

/// Extrapolates an epoch of a run that `uipe unlearn` has just ended (-1: the selected one), as `uipe extrapolate
/// --unlearned RUN` does; replaces such extrapolations of an earlier call.
Json extrapolate_run(const fs::path& run, std::int64_t epoch, const AlphaOptions& options, const Common& common);

}  // namespace uipe::unlearn
