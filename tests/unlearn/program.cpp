#include "tests/unlearn/program.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "tensor/base/error.h"
#include "tests/unlearn/report/run_fixture.h"

namespace uipe::unlearn::testing {
namespace {

/// In the child: `fd` goes to a fresh file.
void redirect(int fd, const fs::path& file) {
    const int to = ::open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (to < 0 || ::dup2(to, fd) < 0) ::_exit(125);
}

void make_playground() {
    const Json config{{"architectures", {"LlamaForCausalLM"}},
                      {"model_type", "llama"},
                      {"hidden_act", "silu"},
                      {"hidden_size", 16},
                      {"intermediate_size", 24},
                      {"num_hidden_layers", 2},
                      {"num_attention_heads", 2},
                      {"num_key_value_heads", 1},
                      {"vocab_size", 512},
                      {"max_position_embeddings", 256},
                      {"rms_norm_eps", 1e-5},
                      {"bos_token_id", 1},
                      {"eos_token_id", 2}};
    write_json(playground() / "init.json", config);
    must({"world", "--out", "world", "--authors", "10", "--questions", "4", "--people", "8", "--related-people", "10",
          "--vocab-size", "512"});
    must(training() + Words{"--epochs", "3", "--out", "base"});
    must(Words{"eval", "--model", "base/model", "--out", "retain"} + evaluation());
}

}  // namespace

Process::Process(const Words& words, const fs::path& where) {
    static int count = 0;
    streams_ = fs::temp_directory_path() / cat("uipe-streams-", ::getpid(), "-", ++count);
    std::vector<std::string> all{UIPE_PROGRAM};
    all.insert(all.end(), words.begin(), words.end());
    // These models are too small to share out, and threads that wait for each other starve on a busy machine.
    if (words.size() > 1 && std::find(words.begin(), words.end(), "--threads") == words.end())
        all.insert(all.end(), {"--threads", "1"});
    std::vector<char*> pointers;
    for (std::string& word : all) pointers.push_back(word.data());
    pointers.push_back(nullptr);
    id_ = ::fork();
    require(id_ >= 0, "cannot fork");
    if (id_ > 0) return;
    redirect(STDIN_FILENO, streams_.string() + ".in");
    redirect(STDOUT_FILENO, streams_.string() + ".out");
    redirect(STDERR_FILENO, streams_.string() + ".err");
    if (::chdir(where.c_str()) != 0) ::_exit(126);
    ::execv(pointers[0], pointers.data());
    ::_exit(127);
}

Process::~Process() {
    if (running()) {
        signal(SIGKILL);
        wait();
    }
    for (const char* suffix : {".in", ".out", ".err"}) fs::remove(streams_.string() + suffix);
}

void Process::signal(int number) const { ::kill(id_, number); }

bool Process::running() {
    if (!ended_ && ::waitpid(id_, &status_, WNOHANG) == id_) ended_ = true;
    return !ended_;
}

Result Process::wait() {
    if (!ended_) ::waitpid(id_, &status_, 0);
    ended_ = true;
    return {WIFEXITED(status_) ? WEXITSTATUS(status_) : 128 + WTERMSIG(status_), read_file(streams_.string() + ".out"),
            read_file(streams_.string() + ".err")};
}

const fs::path& playground() {
    static const Scratch scratch;
    static bool made = false;
    if (!made) {
        made = true;
        make_playground();
    }
    return scratch.path;
}

Result uipe(const Words& words) { return Process(words, playground()).wait(); }

Result must(const Words& words) {
    Result r = uipe(words);
    EXPECT_EQ(r.code, 0) << words.front() << ": " << r.err;
    return r;
}

Words operator+(Words a, const Words& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
}

Words training() {
    return {"train",  "--init",          "init.json", "--tokenizer", "world/tokenizer.model",
            "--data", "world/full.json", "--lr",      "1e-2",        "--batch-size",
            "8"};
}

Words evaluation() { return {"--tofu", "world", "--split", "forget10", "--eval-rows", "4", "--eval-tokens", "6"}; }

void PrintTo(const Bytes& b, std::ostream* out) { *out << b.bytes.size() << " bytes"; }

Bytes weights_of(const fs::path& model) { return {read_file(playground() / model / "model.safetensors")}; }

std::vector<Json> metrics_of(const std::string& run) {
    std::vector<Json> out;
    for_each_row(playground() / run / "metrics.jsonl",
                 [&](const Json& row, const std::string&) { out.push_back(row); });
    return out;
}

std::vector<Json> figures_of(const std::string& run) {
    std::vector<Json> out = metrics_of(run);
    for (Json& row : out) row.erase("tok_per_s");
    return out;
}

Words temporaries(const std::string& folder) {
    Words out;
    for (const auto& entry : fs::recursive_directory_iterator(playground() / folder))
        if (entry.path().filename().string().find(".tmp-") != std::string::npos) out.push_back(entry.path().string());
    return out;
}

}  // namespace uipe::unlearn::testing
