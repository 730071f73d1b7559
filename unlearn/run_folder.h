// A run is a folder: config.json, metrics.jsonl, checkpoints/STEP/, epochs/N/…, model/. A folder that exists is whole.
#pragma once

#include <string>

#include "tensor/base/file.h"
#include "unlearn/trainer.h"

namespace uipe::unlearn {

/// What every command that writes a folder asks first. InputError unless `path` is missing, an empty folder or, with
/// `overwrite`, a folder that holds `mark`, the file by which this command knows its own: no other is ever replaced.
void require_free(const fs::path& path, bool overwrite, const std::string& mark);

/// Holds a folder that exists for this process until the last owner lets go. InputError while another process does.
std::shared_ptr<void> lock_folder(const fs::path& folder);

class RunFolder {
public:
    /// Starts a run in `path`, or goes on with the one there when `resume`. `config` is the run's every value as JSON
    /// text. InputError when the folder is in use and neither `resume` nor `overwrite` is given, when there is nothing
    /// to resume, or when the run there has another config ("resume", "overwrite" and the like aside).
    /// One rank of several does all this; the others, which are not `main`, write nothing but checkpoints.
    RunFolder(fs::path path, const std::string& config, bool resume, bool overwrite, bool main = true);

    const fs::path& path() const { return path_; }
    fs::path epoch(std::int64_t n) const { return path_ / "epochs" / std::to_string(n); }
    fs::path checkpoints() const { return path_ / "checkpoints"; }
    fs::path checkpoint(std::int64_t step) const { return checkpoints() / std::to_string(step); }

    /// Removes all checkpoints but the last `keep`.
    void drop_checkpoints(std::int64_t keep) const;
    /// Removes those of later steps.
    void drop_checkpoints_after(std::int64_t step) const;
    /// Drops the lines of metrics.jsonl after `step`: those a resumed run will write again.
    void rewind_metrics(std::int64_t step) const;
    /// Appends a step to metrics.jsonl.
    void append(const StepInfo& info) const;

private:
    fs::path path_;
    bool main_;
    std::shared_ptr<void> lock_;  // held as long as the run is written
};

}  // namespace uipe::unlearn
