// Run folders with invented but plausible numbers: forget quality climbs, peaks and falls; utility pays.
#pragma once

#include <string>
#include <vector>

#include "tensor/base/file.h"

namespace uipe::unlearn::testing {

/// A folder under the system's temporary one, removed with this object.
struct Scratch {
    fs::path path;
    Scratch();
    ~Scratch();
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
};

struct RunShape {
    std::string method = "ga";
    int epochs = 10;
    int rows = 64;                                   // questions in the forget set
    double peak = 5.0;                               // the epoch at which forget quality is highest
    double price = 0.004;                            // utility lost by the square of an epoch
    int selected = 4;                                // 0: no selection.json
    std::vector<double> alphas = {0.25, 0.5, 1, 2};  // extrapolated from the selected epoch
    std::string hostile = {};                        // put into names, prompts and generations
};

/// Writes the whole run folder that `unlearn` and `extrapolate` leave behind.
void write_run(const fs::path& folder, const RunShape& shape);

/// Writes a training run: config.json and metrics.jsonl.
void write_training_run(const fs::path& folder, const std::string& name);

/// Writes the retain model's TOFU_EVAL.json and TOFU_SUMMARY.json.
void write_retain(const fs::path& folder);

}  // namespace uipe::unlearn::testing
