// What commands leave in their folders.
#pragma once

#include <limits>

#include "unlearn/report/run_record.h"

namespace uipe::unlearn {

/// The model or adapter that a run has left, or that of one of its epochs.
inline fs::path product(const fs::path& folder) {
    return folder / (fs::exists(folder / "adapter") ? "adapter" : "model");
}

/// A metric of an evaluation; NaN where it has none.
inline double metric(const fs::path& evaluation, const char* name) {
    return read_evaluation(evaluation).metric(name).value_or(std::numeric_limits<double>::quiet_NaN());
}

}  // namespace uipe::unlearn
