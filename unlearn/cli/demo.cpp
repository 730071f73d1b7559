// uipe demo: the whole story as a script of the other commands, each printed before it runs.
#include <chrono>
#include <cstdio>

#include "llama/tokenizer.h"
#include "llama/weights.h"
#include "unlearn/cli/command.h"
#include "unlearn/experiment/small_world.h"
#include "unlearn/progress.h"
#include "unlearn/report/report.h"

namespace uipe::unlearn {
namespace {

struct Method {
    const char* name;
    Words options;
};

/// GA, GradDiff, KL Min and NPO are the paper's four; NPO-RT is there because it stalls. NPO's beta is 1: on answers of
/// a dozen tokens TOFU's 0.1 makes it the same curve as GA.
const std::vector<Method> methods{
    {"ga", {}}, {"grad_diff", {}}, {"kl_min", {}}, {"npo", {"--beta", "1"}}, {"npo_rt", {"--beta", "1"}}};

class Demo {
public:
    Demo(fs::path out, Common common, bool quick) : out_(std::move(out)), common_(std::move(common)), quick_(quick) {}

    fs::path run() {
        const auto start = std::chrono::steady_clock::now();
        say("A world of fictional authors, and a small Llama that knows other people and countries.");
        command({"world", "--out", at("world")});
        write_config();
        pretrain();
        say("The full model learns all authors; the retain model never sees the last tenth of them.");
        fine_tune("retain", "retain90", {});
        fine_tune("full", "full",
                  {"--retain-log", at("retain/epochs") + "/" + epochs(fine_epochs()) + "/TOFU_EVAL.json"});
        say("Five ways to forget that tenth, and UIPE: further along each way.");
        for (const Method& m : methods) unlearn(m);
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        return report(seconds);
    }

private:
    std::string at(const std::string& name) const { return (out_ / name).string(); }
    static std::string epochs(int n) { return std::to_string(n); }
    int fine_epochs() const { return quick_ ? 3 : 18; }
    int unlearning_epochs() const { return quick_ ? 3 : 10; }

    void command(Words words) const {
        words.insert(words.end(), {"--seed", std::to_string(common_.seed), "--threads", std::to_string(common_.threads),
                                   "--dtype", common_.dtype, "--device", common_.device});
        std::string line = "$ uipe";
        for (const std::string& word : words) line += " " + word;
        say("\n" + line);
        run_command(words);
    }

    Words evaluation() const {
        return {"--tofu",      at("world"),          "--split",       "forget10",
                "--eval-rows", quick_ ? "16" : "40", "--eval-tokens", "40"};
    }

    void write_config() const {
        const std::int64_t vocab_size = llama::Tokenizer::load(at("world/tokenizer.model")).vocab_size();
        llama::write_config(out_, small_config(quick_ ? 64 : 96, quick_ ? 2 : 4, vocab_size));
        fs::rename(out_ / "config.json", out_ / "model-config.json");
    }

    void pretrain() const {
        command({"train",
                 "--init",
                 at("model-config.json"),
                 "--tokenizer",
                 at("world/tokenizer.model"),
                 "--data",
                 at("world/pretrain.jsonl"),
                 "--epochs",
                 quick_ ? "1" : "5",
                 "--batch-size",
                 "32",
                 "--lr",
                 "3e-3",
                 "--warmup-epochs",
                 "0.25",
                 "--weight-decay",
                 "0",
                 "--adam-beta2",
                 "0.98",
                 "--out",
                 at("base")});
    }

    void fine_tune(const std::string& name, const std::string& data, const Words& more) const {
        Words words{"train",
                    "--model",
                    at("base/model"),
                    "--data",
                    at("world/" + data + ".json"),
                    "--replay",
                    at("world/pretrain.jsonl"),
                    "--replay-ratio",
                    "1",
                    "--epochs",
                    epochs(fine_epochs()),
                    "--batch-size",
                    "32",
                    "--lr",
                    "1e-3",
                    "--warmup-epochs",
                    "1",
                    "--adam-beta2",
                    "0.98",
                    "--out",
                    at(name)};
        for (const Words& part : {evaluation(), more}) words.insert(words.end(), part.begin(), part.end());
        command(words);
    }

    void unlearn(const Method& m) const {
        Words words{"unlearn",
                    "--model",
                    at("full/model"),
                    "--method",
                    m.name,
                    "--epochs",
                    epochs(unlearning_epochs()),
                    "--batch-size",
                    "16",
                    "--lr",
                    "3e-4",
                    "--schedule",
                    "constant",
                    "--warmup-epochs",
                    "1",
                    "--retain-log",
                    at("retain/epochs") + "/" + epochs(fine_epochs()) + "/TOFU_EVAL.json",
                    "--out",
                    at(m.name)};
        for (const Words& part : {m.options, evaluation()}) words.insert(words.end(), part.begin(), part.end());
        command(words);
        const Json selection = read_json(out_ / m.name / "selection.json");
        const int selected = selection["epoch"].get<int>();
        const int early = std::min(4, unlearning_epochs());
        extrapolate(m, early);
        if (selected != early) extrapolate(m, selected);
    }

    void extrapolate(const Method& m, int epoch) const {
        Words words{"extrapolate", "--unlearned", at(m.name), "--epoch", epochs(epoch), "--no-models", "--alpha"};
        const Words ladder = quick_ ? Words{"0.5", "1"} : Words{"0.25", "0.5", "1", "2", "4"};
        words.insert(words.end(), ladder.begin(), ladder.end());
        command(words);
    }

    fs::path report(double seconds) const {
        ReportOptions options;
        options.retain = out_ / "retain/epochs" / epochs(fine_epochs());
        options.facts = {
            {"Parameters",
             grouped(static_cast<double>(llama::parameter_count(llama::read_config(out_ / "full/model"))))},
            {"Time", clock_text(seconds)}};
        std::vector<fs::path> runs{out_ / "base", out_ / "retain", out_ / "full"};
        for (const Method& m : methods) runs.push_back(out_ / m.name);
        const fs::path page = out_ / "report.html";
        write_report(runs, page, options);
        return page;
    }

    fs::path out_;
    Common common_;
    bool quick_;
};

}  // namespace

void add_demo(CLI::App& app) {
    struct Arguments {
        fs::path out = "runs/demo";
        bool quick = false;
        bool overwrite = false;
    };
    const auto a = std::make_shared<Arguments>();
    const auto common = std::make_shared<Common>();
    CLI::App* c = add_command(
        app, "demo", "The whole story in minutes: train, unlearn, extrapolate, evaluate, report", common,
        [a, common](const CLI::App&) {
            if (fs::exists(a->out) && !fs::is_empty(a->out)) {
                require_input(a->overwrite, a->out.string(), ": exists already; choose another --out, or --overwrite");
                require_input(fs::exists(a->out / "world/world.json"), a->out.string(),
                              ": is no demo, so --overwrite leaves it alone; choose another --out");
                fs::remove_all(a->out);
            }
            const fs::path page = Demo(a->out, *common, a->quick).run();
            if (prints_text(*common)) std::printf("%s\n", page.c_str());
            return Json{{"report", page.string()}};
        });
    c->add_option("--out", a->out, "Folder for the world, the models and report.html");
    c->add_flag("--quick", a->quick, "A smaller model and few epochs: shows that all works, not what it teaches");
    c->add_flag("--overwrite", a->overwrite, "Replace the demo in --out");
}

}  // namespace uipe::unlearn
