#include "unlearn/experiment/halves.h"

#include "eval/score.h"
#include "tensor/base/error.h"

namespace uipe::unlearn {
namespace {

/// The forget rows alone, which are all that forget quality is of.
eval::EvalLog part(const eval::EvalLog& log, Rows rows) {
    eval::EvalLog out;
    out.format = log.format;
    out.source = log.source;
    const std::size_t step = rows == Rows::all ? 1 : 2;
    for (std::size_t i = rows == Rows::odd ? 1 : 0; i < log.forget.rows.size(); i += step)
        out.forget.rows.push_back(log.forget.rows[i]);
    require_input(!out.forget.rows.empty(), log.source, ": has ", log.forget.rows.size(),
                  " forget rows, too few to choose by one half and judge by the other");
    return out;
}

}  // namespace

double forget_quality(const eval::EvalLog& log, const eval::EvalLog& retain_log, Rows rows) {
    const eval::EvalLog retain = part(retain_log, rows);
    return eval::score(part(log, rows), &retain, {.protocol = log.format}).at("forget_quality");
}

}  // namespace uipe::unlearn
