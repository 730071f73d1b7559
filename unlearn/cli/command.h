// The frame of a command: its options, those all commands share, and its run.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "tensor/base/json.h"
#include "tensor/tensor.h"

namespace uipe::unlearn {

/// Options that every command takes.
struct Common {
    std::string device = "cpu";
    std::string dtype = "f32";
    std::uint64_t seed = 42;
    int threads = 0;
    bool json = false;
    std::string config;

    tensor::DType type() const;
    tensor::Device where() const;
};

/// Adds a command with the common options. `run` is called after a successful parse; it returns the JSON result that
/// --json prints (null: the command has printed for itself).
CLI::App* add_command(CLI::App& app, const std::string& name, const std::string& what,
                      const std::shared_ptr<Common>& common, const std::function<Json(const CLI::App& command)>& run);

/// Every option of a parsed command with its value, defaults included, under the option's name with '_' for '-'; typed
/// as the option is. It reads back through --config.
Json config_of(const CLI::App& command);

void add_train(CLI::App& app);
void add_unlearn(CLI::App& app);
void add_extrapolate(CLI::App& app);
void add_eval(CLI::App& app);
void add_score(CLI::App& app);
void add_logprobs(CLI::App& app);
void add_generate(CLI::App& app);
void add_tokenize(CLI::App& app);
void add_convert(CLI::App& app);
void add_inspect(CLI::App& app);
void add_merge(CLI::App& app);
void add_world(CLI::App& app);
void add_demo(CLI::App& app);
void add_report(CLI::App& app);
void add_plan(CLI::App& app);
void add_experiment(CLI::App& app);

/// The option of commands that take an adapter's folder for --model.
void add_base_option(CLI::App& command, fs::path& base);

/// What `--preset` of train and unlearn stands for, as --config would hold it. InputError lists the known ones.
Json preset_options(const std::string& command, const std::string& preset);

/// Whether a command prints its result as text: not with --json, nor when another command runs it.
bool prints_text(const Common& common);

/// Runs one command line, without the program's name, as main does, but throws and prints no result. For commands that
/// call others.
void run_command(const std::vector<std::string>& arguments);

}  // namespace uipe::unlearn
