#include "unlearn/cli/command.h"

#include <algorithm>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <set>
#include <thread>

#include "tensor/comm/launch.h"
#include "tensor/parallel.h"
#include "unlearn/cli/program.h"
#include "unlearn/progress.h"
#include "unlearn/training.h"

namespace uipe::unlearn {
namespace {

bool nested = false;  // a command runs within another, or has failed there

/// "{--lr 1e-5}" from {"lr": 1e-5}, for keys that the command line does not set itself.
void append_option(std::vector<std::string>& arguments, const CLI::App& command, const std::string& key,
                   const Json& value, const std::string& file) {
    std::string flag = "--" + key;
    for (char& c : flag)
        if (c == '_') c = '-';
    require_input(command.get_option_no_throw(flag) != nullptr, file, ": \"", key, "\" is no option of uipe ",
                  command.get_name(), "; uipe ", command.get_name(), " --help lists them");
    for (const std::string& given : arguments)
        if (given == flag || given.starts_with(flag + "=")) return;
    const auto text = [&](const Json& item) {
        require_input(item.is_primitive(), file, ": \"", key,
                      "\" must be a number, a text, true, false or a list of those");
        return item.is_string() ? item.get<std::string>() : item.dump();
    };
    if (value.is_null() || (value.is_boolean() && !value.get<bool>()) || (value.is_string() && value.empty())) return;
    if (value.is_string() && value.get<std::string>().empty()) return;
    if (value.is_array() && value.empty()) return;
    // As --flag=value, so that a value never reads as an option of its own.
    if (value.is_boolean())
        arguments.push_back(flag);
    else if (value.is_array())
        for (const Json& item : value) arguments.push_back(flag + "=" + text(item));
    else
        arguments.push_back(flag + "=" + text(value));
}

/// The command that the arguments name, the first of them; InputError lists the known ones.
CLI::App& command_named(CLI::App& app, const std::string& name) {
    std::string known;
    for (CLI::App* command : app.get_subcommands({})) {
        if (command->get_name() == name) return *command;
        known += (known.empty() ? "" : ", ") + command->get_name();
    }
    throw InputError(cat(name.empty() ? "give a command" : cat("unknown command '", name, "'"), "; known: ", known));
}

/// The value that the arguments give a flag, the last where there are several.
std::string value_of(const std::vector<std::string>& arguments, const std::string& flag) {
    std::string value;
    for (std::size_t i = 0; i < arguments.size(); ++i) {
        if (arguments[i] == flag && i + 1 < arguments.size()) value = arguments[i + 1];
        if (arguments[i].starts_with(flag + "=")) value = arguments[i].substr(flag.size() + 1);
    }
    return value;
}

/// Puts the options of `--config FILE` behind the arguments; flags already there win.
std::vector<std::string> with_config_file(std::vector<std::string> arguments, const CLI::App& command) {
    const std::string file = value_of(arguments, "--config");
    if (file.empty()) return arguments;
    const Json config = read_json(file);
    require_input(config.is_object(), file, ": must hold a JSON object of options");
    const std::set<std::string> not_options{"command", "help", "config", "resume", "overwrite", "device_name", "ranks"};
    // A run can be planned by its own config.json: what uipe plan does not ask for is left out.
    const bool others = config.contains("command") && config["command"] != command.get_name();
    const auto taken = [&](const std::string& key) {
        std::string flag = "--" + key;
        std::replace(flag.begin(), flag.end(), '_', '-');
        return !not_options.contains(key) &&
               (!others || (key != "preset" && command.get_option_no_throw(flag) != nullptr));
    };
    for (const auto& [key, value] : config.items())
        if (taken(key)) append_option(arguments, command, key, value, file);
    return arguments;
}

/// Puts the options that `--preset NAME` of train and unlearn stands for behind those; what is there already wins.
std::vector<std::string> with_preset(std::vector<std::string> arguments, const CLI::App& command) {
    const std::string preset = value_of(arguments, "--preset");
    if (preset.empty() || (command.get_name() != "train" && command.get_name() != "unlearn")) return arguments;
    const Json options = preset_options(command.get_name(), preset);
    for (const auto& [key, value] : options.items())
        append_option(arguments, command, key, value, "--preset " + preset);
    return arguments;
}

/// CLI11's message in our form: one line, and where help is.
std::string one_line(const CLI::App& app, const std::string& message) {
    std::string line = message.substr(0, message.find('\n'));
    std::string command = "uipe";
    for (const CLI::App* at = &app; !at->get_subcommands().empty();) {
        at = at->get_subcommands().front();
        command += " " + at->get_name();
    }
    return cat(line, " (", command, " --help lists the options)");
}

void parse(std::vector<std::string> arguments) {
    CLI::App app{
        "Fine-tune, unlearn, extrapolate and evaluate LLaMA models on the TOFU benchmark.\n"
        "Start with: uipe demo. Every command explains itself: uipe COMMAND --help.",
        "uipe"};
    app.require_subcommand(1);
    app.get_formatter()->column_width(36);
    for (const auto add :
         {add_demo, add_world, add_train, add_unlearn, add_extrapolate, add_eval, add_score, add_logprobs, add_generate,
          add_tokenize, add_convert, add_merge, add_inspect, add_plan, add_report, add_experiment})
        add(app);
    const std::string first = arguments.empty() ? "" : arguments.front();
    if (!first.starts_with("-")) {
        CLI::App* named = &command_named(app, first);
        if (!named->get_subcommands({}).empty() && arguments.size() > 1 && !arguments[1].starts_with("-"))
            named = &command_named(*named, arguments[1]);
        const CLI::App& command = *named;
        // A preset given here goes before the file, one of the file behind it.
        arguments = with_preset(std::move(arguments), command);
        arguments = with_preset(with_config_file(std::move(arguments), command), command);
    }
    std::reverse(arguments.begin(), arguments.end());  // CLI11 takes them from the back
    try {
        app.parse(arguments);
    } catch (const CLI::CallForHelp&) {
        const CLI::App* asked = &app;
        std::string before;
        for (; !asked->get_subcommands().empty(); asked = asked->get_subcommands().front())
            before += (before.empty() ? "" : " ") + asked->get_name();
        std::fputs(asked->help(before).c_str(), stdout);
    } catch (const CLI::ParseError& e) {
        throw InputError(one_line(app, e.what()));
    }
}

/// Numbers as they are written, for CLI11 takes 010 for eight, nothing for zero, and what is too large for the largest.
void check_numbers(const CLI::App& command) {
    const auto all_of = [](const std::string& text, auto number) {
        const auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), number);
        return fault == std::errc() && end == text.data() + text.size();
    };
    for (const CLI::Option* option : command.get_options()) {
        const std::string type = option->get_type_name();
        const bool whole = type.find("INT") != std::string::npos;
        if (!whole && type.find("FLOAT") == std::string::npos) continue;
        for (const std::string& text : option->results()) {
            const std::size_t digit = text.starts_with('-') ? 1 : 0;
            const bool octal = whole && text.size() > digit + 1 && text[digit] == '0';
            const bool number = !whole                                   ? all_of(text, 0.0)
                                : type.find("UINT") == std::string::npos ? all_of(text, std::int64_t{0})
                                                                         : all_of(text, std::uint64_t{0});
            require_input(number && !octal, option->get_name(), ": '", text, "' is no ",
                          whole ? "whole number of at most 64 bits, such as 10" : "number, such as 1e-5");
        }
    }
}

Json typed(const std::string& text, const std::string& type) {
    if (type.find("TEXT") != std::string::npos || text.empty()) return text;
    const Json value = Json::parse(text, nullptr, false);
    return value.is_discarded() ? Json(text) : value;
}

}  // namespace

tensor::DType Common::type() const {
    if (dtype == "bf16") return tensor::DType::bf16;
    require_input(dtype == "f32", "unknown --dtype '", dtype, "'; known: f32, bf16");
    return tensor::DType::f32;
}

tensor::Device Common::where() const { return tensor::device_named(device); }

CLI::App* add_command(CLI::App& app, const std::string& name, const std::string& what,
                      const std::shared_ptr<Common>& common, const std::function<Json(const CLI::App&)>& run) {
    CLI::App* command = app.add_subcommand(name, what);
    command->option_defaults()->always_capture_default();
    const std::string group = "Common options";
    command->add_option("--device", common->device, "Where to compute: cpu or cuda")->group(group);
    command->add_option("--dtype", common->dtype, "Weights and activations: f32 or bf16 (masters stay f32)")
        ->group(group);
    command->add_option("--seed", common->seed, "Seed of every random number")
        ->check([](const std::string& text) { return text.starts_with('-') ? text + " is below 0" : std::string(); })
        ->group(group);
    command->add_option("--threads", common->threads, "Processor threads; 0: all, shared among the ranks of a machine")
        ->group(group);
    command->add_flag("--json", common->json, "Print the result as JSON on standard output")->group(group);
    command->add_option("--config", common->config, "JSON file of options; flags override it")->group(group);
    const bool shares = name == "train" || name == "unlearn";
    command->callback([command, common, run, shares] {
        check_numbers(*command);
        require_input(shares || tensor::launched().ranks == 1, "uipe ", command->get_name(),
                      " is work for one process; start it without a launcher (ranks share train and unlearn)");
        common->where();
        require_input(common->threads >= 0 && common->threads <= 1024, "--threads must be between 0 and 1024");
        common->type();
        tensor::set_num_threads(common->threads);
        const Json result = run(*command);
        if (common->json && !nested && !result.is_null() && tensor::launched().rank == 0)
            std::printf("%s\n", result.dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
        std::fflush(stdout);
    });
    return command;
}

void add_base_option(CLI::App& command, fs::path& base) {
    command.add_option("--base", base, "Model folder of an adapter; default: the one that the adapter names");
}

Json config_of(const CLI::App& command) {
    Json out{{"command", command.get_name()}};
    for (const CLI::Option* option : command.get_options()) {
        std::string name = option->get_name();
        name = name.substr(std::min(name.find_first_not_of('-'), name.size()));
        if (name.empty() || name == "help") continue;
        for (char& c : name)
            if (c == '-') c = '_';
        if (option->get_expected_min() == 0 && option->count() == 0) {
            out[name] = false;
        } else if (option->get_expected_max() == 0) {  // a flag
            out[name] = true;
        } else if (name == "threads") {
            out[name] = tensor::num_threads();  // as resolved: sums of bf16 may depend on it (products_keep_bits)
        } else if (option->get_expected_max() > 1) {
            Json list = Json::array();
            for (const std::string& item : option->results()) list.push_back(typed(item, option->get_type_name()));
            out[name] = list;
        } else {
            out[name] = typed(option->count() > 0 ? option->results().back() : option->get_default_str(),
                              option->get_type_name());
        }
    }
    return out;
}

bool prints_text(const Common& common) { return !common.json && !nested; }

void run_command(const std::vector<std::string>& arguments) {
    nested = true;
    parse(arguments);
    nested = false;
}

namespace {

/// Says why the program ends, and gives back its status. What befalls every rank, one says: the others give the first
/// time to end them all, for which Open MPI's launcher takes a second.
int failed(const std::string& why, int status) {
    set_silent(false);
    if (tensor::launched().rank > 0) std::this_thread::sleep_for(std::chrono::seconds(4));
    say(cat("uipe: ", tensor::rank_label(), why));
    return status;
}

}  // namespace

int run_program(int argc, char** argv) {
    set_silent(tensor::launched().rank > 0);
    (void)std::signal(SIGXFSZ,
                      SIG_IGN);  // a file that outgrows `ulimit -f` is an error of its write, which is reported
    try {
        parse(std::vector<std::string>(argv + 1, argv + argc));
        require(std::fflush(stdout) == 0 && std::ferror(stdout) == 0, "cannot write to standard output");
        return 0;
    } catch (const InputError& e) {
        return failed(e.what(), 2);
    } catch (const fs::filesystem_error& e) {
        return failed(cat(e.path1().string(), ": ", e.code().message()),
                      e.code() == std::errc::no_space_on_device ? 1 : 2);
    } catch (const Stopped& e) {
        return failed(cat(e.what(), nested ? "" : "; go on with --resume"), 1);
    } catch (const std::bad_alloc&) {
        return failed("out of memory; a smaller --micro-batch or model needs less", 1);
    } catch (const std::exception& e) {
        return failed(e.what(), 1);
    }
}

}  // namespace uipe::unlearn
