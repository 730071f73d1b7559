// The built program as a child process, and a small world with a small model to run it on.
#pragma once

#include <sys/types.h>

#include <iosfwd>
#include <string>
#include <vector>

#include "tensor/base/json.h"

namespace uipe::unlearn::testing {

using Words = std::vector<std::string>;

struct Result {
    int code = -1;  // the exit code; 128 + the signal when one ended it
    std::string out, err;

    /// What --json printed.
    Json json() const { return parse_json(out, "standard output"); }
};

/// A command under way. No shell is involved: words reach the program as they are.
class Process {
public:
    /// Runs `uipe words…` in the folder `where`, on one thread unless the words say otherwise.
    Process(const Words& words, const fs::path& where);
    ~Process();
    Process(const Process&) = delete;
    Process& operator=(const Process&) = delete;

    pid_t id() const { return id_; }
    void signal(int number) const;
    bool running();
    Result wait();

private:
    pid_t id_ = -1;
    int status_ = 0;
    bool ended_ = false;
    fs::path streams_;
};

/// A folder of its own, gone at the end of the program, in which stand, made once by the program itself:
/// `world` (10 authors of 4 questions), `init.json` (a model of two layers), `base` (a short training run on full.json)
/// and `retain` (the evaluation of base/model on 4 rows of each set, as a retain log).
const fs::path& playground();

/// Runs `uipe words…` in the playground.
Result uipe(const Words& words);
/// The same, and a test failure unless it exits with 0.
Result must(const Words& words);

Words operator+(Words a, const Words& b);

/// The options by which `base` was trained, but for --out and --epochs.
Words training();
/// The options by which unlearning evaluates in a moment.
Words evaluation();

/// Bytes to compare, not to read: a failed comparison prints their number alone.
struct Bytes {
    std::string bytes;
    bool operator==(const Bytes&) const = default;
};
void PrintTo(const Bytes& b, std::ostream* out);

/// The file model.safetensors of a model folder in the playground.
Bytes weights_of(const fs::path& model);
/// The lines of a run's metrics.jsonl.
std::vector<Json> metrics_of(const std::string& run);
/// Their losses, learning rates and gradient norms: all that depends on no clock.
std::vector<Json> figures_of(const std::string& run);
/// Names below the playground, or below a folder of it, that a write still under way would have.
Words temporaries(const std::string& folder = ".");

}  // namespace uipe::unlearn::testing
