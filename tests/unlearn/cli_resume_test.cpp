// Runs that are stopped, killed and taken up again: each must end as the run that was left alone.
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <sstream>
#include <thread>

#include "tests/llama/support.h"
#include "tests/unlearn/program.h"
#include "unlearn/checkpoint.h"

namespace uipe::unlearn::testing {
namespace {

/// Waits until the run of a process has made `steps` steps. It is long enough not to end before.
void await_steps(Process& process, const std::string& run, std::size_t steps) {
    const fs::path file = playground() / run / "metrics.jsonl";
    const auto made = [&] {
        const std::string text = fs::exists(file) ? read_file(file) : "";
        return static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
    };
    while (process.running() && made() < steps) std::this_thread::sleep_for(std::chrono::milliseconds(2));
}

/// Ends the process with `number` once its run has made `steps` steps.
Result interrupt(const Words& words, const std::string& run, std::size_t steps, int number) {
    Process process(words, playground());
    await_steps(process, run, steps);
    process.signal(number);
    return process.wait();
}

void expect_same_run(const std::string& run, const std::string& straight) {
    EXPECT_EQ(weights_of(run + "/model"), weights_of(straight + "/model"));
    EXPECT_EQ(figures_of(run), figures_of(straight));
    EXPECT_EQ(read_json(playground() / run / "finished.json"), read_json(playground() / straight / "finished.json"));
    EXPECT_EQ(temporaries(run), Words{});
    EXPECT_FALSE(fs::exists(playground() / run / "checkpoints"));
}

TEST(Resume, BetweenAndWithinEpochsGivesTheSameBits) {
    const Words words =
        training() + Words{"--epochs", "3", "--replay", "world/pretrain.jsonl", "--replay-ratio", "0.5"};
    must(words + Words{"--out", "straight"});
    const std::size_t steps = metrics_of("straight").size();
    ASSERT_EQ(steps, 24u);  // 60 rows by 8, three times
    for (const std::string stop : {"8", "11", "1"}) {
        SCOPED_TRACE(stop);
        const std::string run = "stopped-" + stop;
        const Words again = words + Words{"--out", run, "--resume", "--json"};
        const Json first = must(words + Words{"--out", run, "--stop-after", stop, "--json"}).json();
        EXPECT_EQ(first["step"], std::stoi(stop));
        EXPECT_FALSE(first.contains("model")) << "there is none yet";
        EXPECT_FALSE(fs::exists(playground() / run / "model"));
        EXPECT_EQ(must(again + Words{"--stop-after", "2"}).json()["step"], std::stoi(stop) + 2);
        const Result last = must(again);
        EXPECT_EQ(last.json()["step"], steps);
        EXPECT_SAYS(last.err, cat("going on after step ", std::stoi(stop) + 2, " of 24"));
        expect_same_run(run, "straight");
        const Result finished = uipe(again);
        EXPECT_EQ(finished.code, 2);
        EXPECT_SAYS(finished.err, "has finished");
    }
}

TEST(Resume, MomentsOfBf16AreRoundedAsWithoutTheStop) {
    const Words words = training() + Words{"--epochs", "2", "--moments", "bf16", "--out"};
    must(words + Words{"narrow"});
    must(words + Words{"narrow-stopped", "--stop-after", "7"});
    must(words + Words{"narrow-stopped", "--resume"});
    expect_same_run("narrow-stopped", "narrow");
}

TEST(Resume, AnUnlearningRunKeepsItsEvaluationsAndItsSelection) {
    const Words words =
        Words{"unlearn", "--model", "base/model", "--method",     "npo_rt", "--epochs",   "3",   "--batch-size",
              "2",       "--lr",    "3e-3",       "--retain-log", "retain", "--protocol", "tofu"} +
        evaluation();
    must(words + Words{"--out", "whole"});
    must(words + Words{"--out", "parts", "--stop-after", "3"});
    EXPECT_FALSE(fs::exists(playground() / "parts/selection.json"));
    must(words + Words{"--out", "parts", "--resume"});
    EXPECT_EQ(read_json(playground() / "parts/selection.json"), read_json(playground() / "whole/selection.json"));
    EXPECT_EQ(figures_of("parts"), figures_of("whole"));
    for (const std::string epoch : {"0", "1", "2", "3"}) {
        EXPECT_EQ(read_json(playground() / "parts/epochs" / epoch / "TOFU_EVAL.json"),
                  read_json(playground() / "whole/epochs" / epoch / "TOFU_EVAL.json"));
    }
    for (const std::string model : {"epochs/1/model", "epochs/2/model", "epochs/3/model"})
        EXPECT_EQ(weights_of("parts/" + model), weights_of("whole/" + model));
}

/// Long enough, and seldom enough on the disk, that a signal sent at an early step arrives before the end.
Words long_training() {
    return {"train", "--model", "base/model", "--data", "world/pretrain.jsonl", "--batch-size", "8", "--epochs", "1"};
}

TEST(Resume, ATerminatedRunSaysHowToGoOnAndDoes) {
    must(long_training() + Words{"--out", "left-alone"});
    const std::size_t steps = metrics_of("left-alone").size();
    for (const int number : {SIGTERM, SIGINT, SIGUSR1}) {
        const std::string run = cat("signal-", number);
        const Words words = long_training() + Words{"--out", run};
        const Result r = interrupt(words, run, 12, number);
        EXPECT_EQ(r.code, 1);
        EXPECT_SAYS(r.err, cat("of ", steps, "; go on with --resume"));
        EXPECT_LT(metrics_of(run).size(), steps);
        EXPECT_EQ(temporaries(run), Words{});
        must(words + Words{"--resume"});
        expect_same_run(run, "left-alone");
    }
}

/// Takes a variable from the environment of processes that are started while it lives.
class Unset {
public:
    explicit Unset(const char* name) : name_(name) {
        if (const char* value = std::getenv(name)) before_ = value;
        ::unsetenv(name);
    }
    ~Unset() {
        if (before_) ::setenv(name_, before_->c_str(), 1);
    }
    Unset(const Unset&) = delete;
    Unset& operator=(const Unset&) = delete;

private:
    const char* name_;
    std::optional<std::string> before_;
};

TEST(Resume, SignalsReachAThreadThatRunsNoKernelAndIdleThreadsSleep) {
    const Unset count("GOMP_SPINCOUNT");
    const Unset policy("OMP_WAIT_POLICY");
    Process process(long_training() + Words{"--out", "watched", "--threads", "2"}, playground());
    await_steps(process, "watched", 3);
    const fs::path proc = cat("/proc/", process.id());
    const auto text = [](const fs::path& file) {
        std::ostringstream out;
        out << std::ifstream(file).rdbuf();
        return out.str();
    };
    EXPECT_NE(text(proc / "environ").find(std::string("\0GOMP_SPINCOUNT=", 16)), std::string::npos);
    int threads = 0;
    int open = 0;  // to one of the signals
    for (const auto& task : fs::directory_iterator(proc / "task")) {
        const std::string status = text(task.path() / "status");
        const std::string mark = "SigBlk:\t";
        if (status.find(mark) == std::string::npos) continue;  // it has ended meanwhile
        const std::uint64_t blocked = std::stoull(status.substr(status.find(mark) + mark.size(), 16), nullptr, 16);
        ++threads;
        for (const int number : {SIGINT, SIGTERM, SIGUSR1})
            if ((blocked >> (number - 1) & 1) == 0) {
                ++open;
                break;
            }
    }
    EXPECT_GE(threads, 3);  // two that compute, and the one that waits
    EXPECT_LE(open, 1);     // the one that waits, for as long as it does
}

TEST(Resume, ASignalEndsWhatIsNoRunAsIfNobodyWaitedForIt) {
    for (const int number : {SIGTERM, SIGINT, SIGUSR1}) {
        Process process({"eval", "--model", "base/model", "--tofu", "world", "--split", "forget10", "--out", "ended",
                         "--overwrite"},
                        playground());
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        process.signal(number);
        EXPECT_EQ(process.wait().code, 128 + number);
    }
}

TEST(Resume, AKilledRunGoesOnFromItsLastCheckpoint) {
    must(long_training() + Words{"--out", "unharmed"});
    // Checkpoints follow each other so closely that a kill is likely to fall into the writing of one.
    const Words words = long_training() + Words{"--checkpoint-steps", "10", "--out", "killed"};
    ASSERT_EQ(interrupt(words, "killed", 12, SIGKILL).code, 128 + SIGKILL);
    for (const std::size_t steps : {25, 40})
        ASSERT_EQ(interrupt(words + Words{"--resume"}, "killed", steps, SIGKILL).code, 128 + SIGKILL);
    EXPECT_FALSE(fs::exists(playground() / "killed/model"));
    must(long_training() + Words{"--out", "killed", "--resume"});
    expect_same_run("killed", "unharmed");
}

TEST(Resume, WhatAKilledWriteLeftIsNeitherReadNorKept) {
    const Words words = training() + Words{"--epochs", "2", "--out", "littered"};
    must(words + Words{"--stop-after", "6"});
    for (const std::string name : {"checkpoints/6.tmp-1", "model.tmp-1", "epochs/1.tmp-1", "epochs/1.tmp-old-1"})
        fs::create_directories(playground() / "littered" / name);
    write_file(playground() / "littered/checkpoints/6.tmp-1/state.json", "{}");
    must(words + Words{"--resume"});
    EXPECT_EQ(temporaries("littered"), Words{});
    must(training() + Words{"--epochs", "2", "--out", "clean"});
    expect_same_run("littered", "clean");
}

TEST(Resume, ARunKilledAsItsFolderWasMadeIsInNobodysWay) {
    const Words words = training() + Words{"--epochs", "1"};
    write_file(playground() / "unborn/config.json.tmp-1", "{");
    must(words + Words{"--out", "unborn"});
    write_file(playground() / "young/metrics.jsonl", "");
    EXPECT_EQ(uipe(words + Words{"--out", "young", "--resume"}).code, 2);
    must(words + Words{"--out", "young", "--overwrite"});
    expect_same_run("young", "unborn");
}

TEST(Resume, ARunKilledAtItsVeryEndIsWhole) {
    const Words words = training() + Words{"--epochs", "1"};
    must(words + Words{"--out", "ended"});
    must(words + Words{"--out", "ending"});
    fs::create_directories(playground() / "ending/checkpoints/8.tmp-old");
    const Result r = uipe(words + Words{"--out", "ending", "--resume"});
    EXPECT_EQ(r.code, 2);
    EXPECT_SAYS(r.err, "has finished");
    expect_same_run("ending", "ended");
}

TEST(Resume, ARunWithoutACheckpointStartsAnew) {
    const Words words = training() + Words{"--epochs", "2", "--out", "bare"};
    must(words + Words{"--stop-after", "6"});
    fs::remove_all(playground() / "bare/checkpoints");
    must(words + Words{"--resume"});
    must(training() + Words{"--epochs", "2", "--out", "fresh"});
    expect_same_run("bare", "fresh");
}

TEST(Resume, OtherDataUnderTheSameNameIsRefused) {
    const fs::path data = playground() / "changing.json";
    const std::string row = "{\"question\": \"Who wrote it?\", \"answer\": \"Ada wrote it.\"}\n";
    write_file(data, row + row + row + row);
    const Words words = {"train",  "--init",       "init.json", "--tokenizer", "world/tokenizer.model",
                         "--data", data.string(),  "--out",     "changed",     "--epochs",
                         "4",      "--batch-size", "2"};
    must(words + Words{"--stop-after", "3"});
    write_file(data, row + row + row + "{\"question\": \"Who wrote it?\", \"answer\": \"Bob wrote it.\"}\n");
    const Result other = uipe(words + Words{"--resume"});
    EXPECT_EQ(other.code, 2);
    EXPECT_SAYS(other.err, "other data");
    write_file(data, row + row + row + row);
    must(words + Words{"--resume"});
}

TEST(Resume, ARunThatIsBeingWrittenIsLeftAlone) {
    const Words words = training() + Words{"--out", "busy", "--epochs", "200"};
    Process process(words, playground());
    const fs::path file = playground() / "busy/metrics.jsonl";
    while (process.running() && (!fs::exists(file) || fs::file_size(file) == 0))
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
    for (const char* how : {"--overwrite", "--resume"}) {
        const Result second = uipe(words + Words{how});
        EXPECT_EQ(second.code, 2);
        EXPECT_SAYS(second.err, "another process");
    }
    process.signal(SIGKILL);
    process.wait();
}

TEST(Resume, ADamagedCheckpointIsAnInputError) {
    const Words words = training() + Words{"--epochs", "2", "--out", "damaged"};
    must(words + Words{"--stop-after", "6"});
    const fs::path file = playground() / "damaged/checkpoints/6/state-00001-of-00001.safetensors";
    fs::resize_file(file, fs::file_size(file) / 2);
    const Result r = uipe(words + Words{"--resume"});
    EXPECT_EQ(r.code, 2);
    EXPECT_SAYS(r.err, "damaged/checkpoints/6/state-00001-of-00001.safetensors");
    EXPECT_EQ(metrics_of("damaged").size(), 6u) << "and nothing is lost";
}

TEST(Resume, AStateThatWasChangedIsDamaged) {
    const Words words = training() + Words{"--epochs", "2", "--out", "altered"};
    must(words + Words{"--stop-after", "6"});
    const fs::path file = playground() / "altered/checkpoints/6/state.json";
    Json state = read_json(file);
    state["step"] = 3;
    write_file(file, state.dump());
    const Result r = uipe(words + Words{"--resume"});
    EXPECT_EQ(r.code, 2);
    EXPECT_SAYS(r.err, "state.json: is damaged");
}

TEST(Resume, ADamagedCheckpointGivesWayToTheOneBefore) {
    const Words words =
        training() + Words{"--epochs", "2", "--out", "bruised", "--keep", "2", "--checkpoint-steps", "2"};
    must(words + Words{"--stop-after", "6"});
    EXPECT_FALSE(fs::exists(playground() / "bruised/checkpoints/2")) << "two are kept";
    const fs::path file = playground() / "bruised/checkpoints/6/state-00001-of-00001.safetensors";
    std::string bytes = read_file(file);
    bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 4);  // one bit
    write_file(file, bytes);
    const Result r = uipe(words + Words{"--resume", "--stop-after", "1"});
    EXPECT_EQ(r.code, 0) << r.err;
    EXPECT_SAYS(r.err, "damaged");
    EXPECT_SAYS(r.err, "going on after step 5");
    const auto kept = checkpoints_in(playground() / "bruised/checkpoints");
    ASSERT_EQ(kept.size(), 2u);
    EXPECT_EQ(kept.back().first, 6) << "made again";
    must(words + Words{"--resume"});
    must(training() + Words{"--epochs", "2", "--out", "sound"});
    expect_same_run("bruised", "sound");
}

}  // namespace
}  // namespace uipe::unlearn::testing
