// Forget quality on a half of the forget rows: what is chosen on one can be judged on the other.
#pragma once

#include "eval/log.h"
#include "unlearn/experiment/frontier.h"

namespace uipe::unlearn {

/// The forget quality of a log's rows against those of the same places in the retain model's. InputError when the logs
/// have not as many rows, or too few to halve.
double forget_quality(const eval::EvalLog& log, const eval::EvalLog& retain_log, Rows rows);

}  // namespace uipe::unlearn
