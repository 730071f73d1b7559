#include "unlearn/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <sstream>

#include "tensor/base/json.h"
#include "unlearn/checkpoint.h"
#include "unlearn/progress.h"

namespace uipe::unlearn {
namespace {

/// What may differ between a run and its resumption: it changes no result of training, except that other numbers of
/// ranks add in another order, and of threads in bf16 where products do not keep their bits.
constexpr const char* free_keys[] = {
    "resume",  "overwrite", "out",         "stop_after", "json",       "config",        "checkpoint_steps",
    "profile", "offload",   "device_name", "keep",       "zero",       "threads",       "ranks",
    "memory",  "recompute", "fixed_order", "alpha",      "alpha_rule", "utility_budget"};

Json comparable(Json config) {
    for (const char* key : free_keys) config.erase(key);
    return config;
}

/// "lr is 0.001 there, 0.002 here" for the first value that differs.
std::string difference(const Json& there, const Json& here) {
    for (const auto& [key, value] : here.items()) {
        const std::string was = there.contains(key) ? there[key].dump() : "not set";
        if (was != value.dump()) return cat(key, " is ", was, " there and ", value.dump(), " here");
    }
    return "values differ";
}

/// Removes what a killed process left half-written.
template <class Chosen>
void remove_entries(const fs::path& folder, const Chosen& chosen) {
    if (!fs::is_directory(folder)) return;
    std::vector<fs::path> found;
    for (const auto& entry : fs::directory_iterator(folder))
        if (chosen(entry.path().filename().string())) found.push_back(entry.path());
    for (const fs::path& path : found) fs::remove_all(path);
}

bool is_temporary(const std::string& name) { return name.find(".tmp-") != std::string::npos; }

void remove_temporaries(const fs::path& folder) { remove_entries(folder, is_temporary); }

/// No more in it than what a process left that was killed in its first write.
bool holds_nothing(const fs::path& folder) {
    return fs::is_directory(folder) &&
           std::all_of(fs::directory_iterator(folder), fs::directory_iterator(),
                       [](const auto& entry) { return is_temporary(entry.path().filename().string()); });
}

/// Removes a folder, which first stops being what its name says, for removal takes time.
void drop(const fs::path& folder) {
    fs::path gone = folder;
    gone += ".tmp-old";
    fs::rename(folder, gone);
    fs::remove_all(gone);
}

}  // namespace

std::shared_ptr<void> lock_folder(const fs::path& folder) {
    const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    require(fd >= 0, folder.string(), ": cannot open: ", std::strerror(errno));
    const auto close = [](int* held) {
        ::close(*held);
        delete held;
    };
    std::shared_ptr<int> lock(new int(fd), close);
    require_input(::flock(fd, LOCK_EX | LOCK_NB) == 0, folder.string(),
                  ": another process is writing here; wait for it, or choose another --out");
    return lock;
}

void require_free(const fs::path& path, bool overwrite, const std::string& mark) {
    if (!fs::exists(path) || holds_nothing(path)) return;
    require_input(overwrite, path.string(), ": exists already; choose another --out, or give --overwrite");
    require_input(fs::exists(path / mark), path.string(), ": holds no ", mark,
                  ", so --overwrite leaves it alone; choose another --out");
}

RunFolder::RunFolder(fs::path path, const std::string& config_text, bool resume, bool overwrite, bool main)
    : path_(std::move(path)), main_(main) {
    if (!main) return;
    const Json config = parse_json(config_text, "run configuration");
    const fs::path file = path_ / "config.json";
    if (resume) {
        require_input(fs::exists(file), path_.string(), ": there is no run to resume; leave --resume out to start one");
        const Json there = read_json(file);
        require_input(
            there.is_object() && comparable(there) == comparable(config), path_.string(),
            ": cannot resume with other settings: ",
            there.is_object() ? difference(comparable(there), comparable(config)) : "config.json is no object");
        for (const char* key : {"threads", "ranks", "zero"})
            if (there.contains(key) && config.contains(key) && there[key] != config[key])
                say(cat("note: begun with ", there[key].dump(), " ", key, ", going on with ", config[key].dump(),
                        "; sums may round otherwise"));
        lock_ = lock_folder(path_);
        remove_temporaries(path_);
        remove_temporaries(path_ / "epochs");
        remove_temporaries(checkpoints());
        return;
    }
    require_free(path_, overwrite, "metrics.jsonl");
    fs::create_directories(path_);
    lock_ = lock_folder(path_);
    // Killed at any moment, it leaves what --overwrite replaces, or, once there is a config, what --resume goes on
    // with.
    fs::remove(file);
    remove_entries(path_, [](const std::string& name) { return name != "metrics.jsonl"; });
    write_file(path_ / "metrics.jsonl", "");
    write_json(file, config);
}

void RunFolder::drop_checkpoints(std::int64_t keep) const {
    if (!main_) return;
    const auto found = checkpoints_in(checkpoints());
    for (std::size_t i = 0; i + static_cast<std::size_t>(keep) < found.size(); ++i) drop(found[i].second);
    if (keep == 0) fs::remove_all(checkpoints());
}

void RunFolder::drop_checkpoints_after(std::int64_t step) const {
    if (!main_) return;
    for (const auto& [at, folder] : checkpoints_in(checkpoints()))
        if (at > step) drop(folder);
}

void RunFolder::rewind_metrics(std::int64_t step) const {
    if (!main_) return;
    const fs::path file = path_ / "metrics.jsonl";
    if (!fs::exists(file)) return;
    std::istringstream lines(read_file(file));
    std::string kept;
    std::int64_t n = 0;
    for (std::string line; n < step && std::getline(lines, line); ++n) kept += line + "\n";
    write_file(file, kept);
}

void RunFolder::append(const StepInfo& info) const {
    if (!main_) return;
    const fs::path file = path_ / "metrics.jsonl";
    std::FILE* out = std::fopen(file.c_str(), "a");
    require(out != nullptr, file.string(), ": cannot write: ", std::strerror(errno));
    const double rate = info.seconds > 0 ? static_cast<double>(info.tokens) / info.seconds : 0.0;
    std::fprintf(out,
                 "{\"step\":%lld,\"epoch\":%lld,\"loss\":%.9g,\"lr\":%.9g,\"grad_norm\":%.9g,\"tokens\":%lld,\"tok_per_"
                 "s\":%.0f}\n",
                 static_cast<long long>(info.step), static_cast<long long>(info.epoch), info.loss, info.lr,
                 info.grad_norm, static_cast<long long>(info.tokens), rate);
    const bool written = std::fclose(out) == 0;
    require(written, file.string(), ": cannot write: ", std::strerror(errno));
}

}  // namespace uipe::unlearn
