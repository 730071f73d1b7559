// A run is a folder: config.json, metrics.jsonl, checkpoint/, epochs/N/…, model/. A folder that exists is whole.
#pragma once

#include <string>

#include "tensor/base/file.h"
#include "unlearn/trainer.h"

namespace uipe::unlearn {

/// What every command that writes a folder asks first. InputError unless `path` is missing, an empty folder or, with
/// `overwrite`, a folder that holds `mark`, the file by which this command knows its own: no other is ever replaced.
void require_free(const fs::path& path, bool overwrite, const std::string& mark);

class RunFolder {
public:
    /// Starts a run in `path`, or goes on with the one there when `resume`. `config` is the run's every value as JSON
    /// text. InputError when the folder is in use and neither `resume` nor `overwrite` is given, when there is nothing
    /// to resume, or when the run there has another config ("resume", "overwrite" and the like aside).
    RunFolder(fs::path path, const std::string& config, bool resume, bool overwrite);

    const fs::path& path() const { return path_; }
    fs::path epoch(std::int64_t n) const { return path_ / "epochs" / std::to_string(n); }
    fs::path checkpoint() const { return path_ / "checkpoint"; }
    bool has_checkpoint() const { return fs::exists(checkpoint() / "state.json"); }

    /// Drops the lines of metrics.jsonl after `step`: those a resumed run will write again.
    void rewind_metrics(std::int64_t step) const;
    /// Appends a step to metrics.jsonl.
    void append(const StepInfo& info) const;

private:
    fs::path path_;
    std::shared_ptr<void> lock_;  // held as long as the run is written
};

}  // namespace uipe::unlearn
