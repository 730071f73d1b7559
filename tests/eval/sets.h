// The four sets of questions that a log scores.
#pragma once

#include "eval/log.h"

namespace uipe::eval {

inline constexpr SetScore EvalLog::*all_sets[] = {&EvalLog::forget, &EvalLog::retain, &EvalLog::real_authors,
                                                  &EvalLog::world_facts};

}  // namespace uipe::eval
