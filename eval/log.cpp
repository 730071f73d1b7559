#include "eval/log.h"

#include "eval/log_json.h"
#include "tensor/base/error.h"

namespace uipe::eval {
namespace {

fs::path log_file(const fs::path& path) {
    if (!fs::is_directory(path)) return path;
    for (const char* name : {"TOFU_EVAL.json", "eval_log_aggregated.json"})
        if (fs::exists(path / name)) return path / name;
    throw InputError(cat(path.string(), ": the folder holds neither TOFU_EVAL.json nor eval_log_aggregated.json; ",
                         "give a folder that `uipe eval` wrote, or a log file"));
}

}  // namespace

EvalLog read_log(const fs::path& path) {
    const fs::path file = log_file(path);
    const Json json = read_json(file);
    const LogValue top(json, file.string() + ":");
    EvalLog log = is_tofu_log(json) ? read_tofu_log(top) : read_open_unlearning_log(top);
    log.source = file.string();
    const bool empty = log.forget.rows.empty() && log.retain.rows.empty() && log.real_authors.rows.empty() &&
                       log.world_facts.rows.empty();
    require_input(!empty, log.source, ": no rows of any evaluation set; ",
                  "give an eval_log_aggregated.json or a TOFU_EVAL.json");
    return log;
}

}  // namespace uipe::eval
