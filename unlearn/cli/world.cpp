// uipe world, uipe report.
#include <cstdio>

#include "unlearn/cli/command.h"
#include "unlearn/report/report.h"
#include "unlearn/run_folder.h"
#include "unlearn/world/world.h"

namespace uipe::unlearn {

void add_world(CLI::App& app) {
    struct Arguments {
        WorldOptions world;
        fs::path out;
        bool overwrite = false;
    };
    const auto a = std::make_shared<Arguments>();
    const auto common = std::make_shared<Common>();
    CLI::App* c = add_command(app, "world", "Write a synthetic, TOFU-shaped world with its tokenizer", common,
                              [a, common](const CLI::App&) {
                                  require_free(a->out, a->overwrite, "world.json");
                                  a->world.seed = common->seed;
                                  write_world(a->world, a->out);
                                  if (prints_text(*common)) std::printf("%s\n", a->out.c_str());
                                  return Json{{"out", a->out.string()}, {"rows", read_json(a->out / "world.json")}};
                              });
    c->add_option("--out", a->out, "Folder to write")->required();
    c->add_option("--authors", a->world.authors, "Fictional authors; the forget sets are 1, 5 and 10 % of them");
    c->add_option("--questions", a->world.questions_per_author, "Questions on each author");
    c->add_option("--people", a->world.pretraining_people, "Other people, in the pretraining data");
    c->add_option("--combinations", a->world.combinations, "Wordings of each pretraining fact");
    c->add_option("--related-people", a->world.related_people, "People who show the rules of related knowledge");
    c->add_option("--related-facts", a->world.related_facts, "Relations shown on each of them");
    c->add_option("--vocab-size", a->world.vocab_size, "Pieces of the tokenizer");
    c->add_flag("--overwrite", a->overwrite, "Replace the world in --out");
}

void add_report(CLI::App& app) {
    struct Arguments {
        std::vector<fs::path> runs;
        fs::path out = "report.html";
        ReportOptions options;
    };
    const auto a = std::make_shared<Arguments>();
    const auto common = std::make_shared<Common>();
    CLI::App* c =
        add_command(app, "report", "One self-contained HTML page from runs", common, [a, common](const CLI::App&) {
            write_report(a->runs, a->out, a->options);
            if (prints_text(*common)) std::printf("%s\n", a->out.c_str());
            return Json{{"out", a->out.string()}};
        });
    c->add_option("runs", a->runs, "Run folders of train and unlearn")->required();
    c->add_option("--out", a->out, "The page to write");
    c->add_option("--retain", a->options.retain, "The retain model's evaluation, for reference");
    c->add_option("--title", a->options.title, "Heading of the page");
}

}  // namespace uipe::unlearn
