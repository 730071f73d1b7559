// uipe experiment, run as a user runs it.
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <sstream>
#include <thread>

#include "tests/llama/support.h"
#include "tests/unlearn/program.h"
#include "unlearn/experiment/related_page.h"
#include "unlearn/run_folder.h"

namespace uipe::unlearn::testing {
namespace {

std::string first_lines(const fs::path& file, int lines) {
    const std::string text = read_file(file);
    std::size_t end = 0;
    for (; lines > 0; --lines) end = text.find('\n', end) + 1;
    return text.substr(0, end);
}

/// Writes a file of facts once.
void write_facts(const std::string& file, const std::string& set, int rows) {
    if (!fs::exists(playground() / file))
        write_file(playground() / file, first_lines(playground() / "world" / cat("related_", set, ".json"), rows));
}

/// Four facts of each kind, and a model that costs nothing.
Words related(const std::string& out) {
    for (const char* set : {"k1", "k2"}) write_facts(cat("few_", set, ".json"), set, 4);
    return {"experiment",
            "related",
            "--model",
            "base/model",
            "--tofu",
            "world",
            "--k1",
            "few_k1.json",
            "--k2",
            "few_k2.json",
            "--fine-epochs",
            "2",
            "--epochs",
            "2",
            "--lr",
            "1e-3",
            "--batch-size",
            "4",
            "--pairs",
            "2",
            "--eval-rows",
            "3",
            "--alpha",
            "0.5",
            "1",
            "--out",
            out};
}

Words with(Words words, const std::string& word, const std::string& other) {
    std::replace(words.begin(), words.end(), word, other);
    return words;
}

/// The commands that a run of the program says that it runs, whose lines begin so.
Words lines_of(const Result& r, const std::string& command) {
    Words out;
    std::istringstream lines(r.err);
    for (std::string line; std::getline(lines, line);)
        if (line.starts_with("$ uipe " + command)) out.push_back(line);
    return out;
}
int commands_of(const Result& r, const std::string& command) { return static_cast<int>(lines_of(r, command).size()); }

TEST(CliExperiment, RelatedComputesOnlyWhatIsNew) {
    const Result first = must(related("related"));
    EXPECT_SAYS(first.out, "related/related.html");
    EXPECT_SAYS(first.err, "--eval-tokens 24");
    EXPECT_EQ(first.err.find("--template"), std::string::npos) << "what is kept goes by the words";
    const Json found = read_json(playground() / "related/related.json");
    ASSERT_EQ(found["seeds"].size(), 1u);
    const Json& seed = found["seeds"][0];
    for (const char* model : {"M1", "M2", "M3"}) EXPECT_EQ(seed["models"][model].size(), 3u) << model;
    EXPECT_EQ(seed["uipe"].size(), 3u);
    EXPECT_EQ(seed["uipe"][0], seed["models"]["M1"][1]) << "alpha 0 is the epoch itself";
    EXPECT_NEAR(seed["inferred_k1"]["chance"].get<double>(), 1.0 / 6, 1e-12);
    // Equation 6: what UIPE goes along a gradient is 1 + alpha times what the update went. f32 weights.
    const Json& along = seed["gradients"];
    EXPECT_EQ(along["unrelated"], "another row's K2") << "whose it is, is not known";
    for (const Json& u : along["uipe"])
        EXPECT_NEAR(u["k2"].get<double>(), (1 + u["alpha"].get<double>()) * along["updates"][0]["k2"].get<double>(),
                    1e-4 * along["updates"][0]["length"].get<double>());
    for (const Json& claim : found["claims"]) EXPECT_EQ(claim["verdict"], "not resolved") << "of one seed";
    const std::string page = read_file(playground() / "related/related.html");
    for (const char* part : {"figure 2", "figure 3", "figure 8", "equation 4", "not resolved", "</html>"})
        EXPECT_SAYS(page, part);
    const std::string csv = read_file(playground() / "related/related.csv");
    EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 1 + 3 * 3 + 3);

    const Result again = must(related("related"));
    EXPECT_EQ(again.err.find("$ uipe"), std::string::npos) << again.err;
    EXPECT_EQ(read_json(playground() / "related/related.json"), found);

    EXPECT_SAYS(found["command"].get<std::string>(), "uipe experiment related");
    fs::path gradients;
    for (const auto& entry : fs::directory_iterator(playground() / "related/runs"))
        if (entry.path().filename().string().starts_with("gradients-")) gradients = entry.path() / "gradients.json";
    const std::string kept = read_file(gradients);
    for (const char* damage : {"{}", "[]", R"({"cosine": {"related": "x"}})"}) {
        write_file(gradients, damage);
        const Result damaged = uipe(related("related"));
        EXPECT_EQ(damaged.code, 2) << damage;
        EXPECT_SAYS(damaged.err, "the same command makes it again");
    }
    write_file(gradients, kept);

    const Result more = must(related("related") + Words{"--alpha", "2"});
    EXPECT_EQ(more.err.find("$ uipe train"), std::string::npos) << more.err;
    EXPECT_EQ(more.err.find("$ uipe unlearn"), std::string::npos) << more.err;
    EXPECT_SAYS(more.err, "$ uipe extrapolate");
}

TEST(CliExperiment, AnEditedFileIsAnother) {
    write_facts("edited_k1.json", "k1", 4);
    const Words words = with(related("edited"), "few_k1.json", "edited_k1.json");
    must(words);
    EXPECT_EQ(commands_of(must(words), ""), 0);
    std::string text = read_file(playground() / "edited_k1.json");
    text.replace(text.find('?'), 1, " ?");
    write_file(playground() / "edited_k1.json", text);
    const Result again = must(words);
    for (const char* command : {"eval", "train", "unlearn", "extrapolate"})
        EXPECT_GE(commands_of(again, command), 1) << command;
}

TEST(CliExperiment, EveryCommandOfRelatedHasItsTemplate) {
    const Result r = must(related("templated") + Words{"--template", "qa", "--eval-tokens", "5"});
    for (const std::string& line : lines_of(r, "")) {
        EXPECT_SAYS(line, " --template qa");
        EXPECT_TRUE(line.starts_with("$ uipe train") || line.find(" --eval-tokens 5 ") != std::string::npos) << line;
    }
    EXPECT_GE(commands_of(r, ""), 10);
}

TEST(CliExperiment, AStoppedExperimentSaysThatItsCommandGoesOn) {
    Process process(with(related("stopped"), "2", "100000"), playground());  // epochs that do not end
    const auto under_way = [] {
        const fs::path runs = playground() / "stopped/runs";
        if (!fs::exists(runs)) return false;
        for (const auto& run : fs::directory_iterator(runs)) {
            const fs::path steps = run.path() / "metrics.jsonl";
            if (fs::exists(steps) && fs::file_size(steps) > 0) return true;
        }
        return false;
    };
    while (process.running() && !under_way()) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    process.signal(SIGINT);
    const Result r = process.wait();
    EXPECT_EQ(r.code, 1);
    EXPECT_SAYS(r.err, "stopped at step ");
    EXPECT_SAYS(r.err, "; the same command goes on");
    EXPECT_EQ(r.err.find("go on with --resume"), std::string::npos);
}

/// Runs of four epochs on a model that costs nothing.
Words trials(const std::string& experiment, const Words& more) {
    return Words{"experiment",   experiment, "--model",       "base/model", "--tofu", "world",
                 "--retain-log", "retain",   "--epochs",      "2",          "--lr",   "1e-3",
                 "--eval-rows",  "3",        "--eval-tokens", "4",          "--out",  "trials"} +
           more;
}

TEST(CliExperiment, TradeoffAndAlphaShareTheirRuns) {
    const Words two{"--splits", "forget10", "--methods", "ga", "npo", "--alpha", "0.5", "1"};
    const Result first = must(trials("tradeoff", two));
    EXPECT_SAYS(first.out, "trials/tradeoff.html");
    EXPECT_EQ(commands_of(first, "unlearn"), 6)
        << "two methods; the rate constant, and decaying in as many and in half the epochs";
    const Json found = read_json(playground() / "trials/tradeoff.json");
    ASSERT_EQ(found["seeds"].size(), 1u);
    ASSERT_EQ(found["seeds"][0]["cells"].size(), 2u);
    for (const Json& claim : found["claims"]) EXPECT_EQ(claim["verdict"], "not resolved") << "of one seed";
    for (const Json& cell : found["seeds"][0]["cells"]) {
        EXPECT_EQ(cell["constant"].size(), 5u);
        EXPECT_EQ(cell["decayed"].size(), 5u);
        EXPECT_EQ(cell["constant"][0], cell["decayed"][0]) << "the model before unlearning";
        EXPECT_NE(cell["constant"][4], cell["decayed"][4]);
        EXPECT_EQ(cell["uipe"]["all"].size(), 2u);
        EXPECT_EQ(cell["ended"].size(), 3u);
        EXPECT_EQ(cell["uipe_ended"].size(), 2u);
    }
    const std::string page = read_file(playground() / "trials/tradeoff.html");
    for (const char* part : {"figure 6", "by halves", "selection on the test set", "not resolved", "</html>"})
        EXPECT_SAYS(page, part);
    const std::string csv = read_file(playground() / "trials/tradeoff.csv");
    EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 1 + 2 * (5 + 5 + 3 + 3 * 2 + 2));

    const Result again = must(trials("tradeoff", two));
    EXPECT_EQ(commands_of(again, ""), 0) << again.err;
    EXPECT_EQ(read_json(playground() / "trials/tradeoff.json"), found);

    const Result more =
        must(trials("tradeoff", {"--splits", "forget10", "--methods", "ga", "npo", "--alpha", "0.5", "1", "2"}));
    EXPECT_EQ(commands_of(more, ""), commands_of(more, "extrapolate")) << more.err;
    EXPECT_GE(commands_of(more, ""), 2);

    const Result alpha =
        must(trials("alpha", {"--split", "forget10", "--methods", "npo", "ga", "--alpha", "1", "0", "0.5"}));
    EXPECT_EQ(commands_of(alpha, ""), 2) << "alpha 0 of each\n" << alpha.err;
    const Json ladders = read_json(playground() / "trials/alpha.json")["seeds"][0]["ladders"];
    for (std::size_t i = 0; i < 2; ++i) {
        const Json& cell = found["seeds"][0]["cells"][i];
        const Json& ladder = ladders[cell["method"].get<std::string>()];
        ASSERT_EQ(ladder.size(), 3u);
        EXPECT_EQ(ladder[0], cell["constant"][ladder[0]["epoch"].get<std::size_t>()]) << "alpha 0 is the epoch itself";
        EXPECT_EQ(ladder[1], cell["uipe"]["all"][0]);
        EXPECT_EQ(ladder[2], cell["uipe"]["all"][1]);
    }
    EXPECT_SAYS(read_file(playground() / "trials/alpha.html"), "figure 7");
}

TEST(CliExperiment, AReplacedLogIsAnother) {
    const Words words = with(
        with(trials("alpha", {"--split", "forget10", "--methods", "ga", "--alpha", "1"}), "retain", "other-retain"),
        "trials", "replaced");
    fs::copy(playground() / "retain", playground() / "other-retain");
    must(words);
    EXPECT_EQ(commands_of(must(words), ""), 0);
    fs::remove_all(playground() / "other-retain");
    fs::copy(playground() / "retain", playground() / "other-retain");
    EXPECT_EQ(commands_of(must(words), ""), 0) << "by the same";
    for (const auto& file : fs::directory_iterator(playground() / "other-retain"))
        write_file(file.path(), read_file(file.path()) + "\n");
    EXPECT_EQ(commands_of(must(words), "unlearn"), 1);
}

TEST(CliExperiment, EveryCommandOfTrialsHasItsTemplate) {
    const Words more{"--split", "forget10", "--methods", "ga", "--alpha", "1", "--template", "qa"};
    const Result r = must(with(trials("alpha", more), "trials", "templates"));
    for (const std::string& line : lines_of(r, "")) EXPECT_SAYS(line, " --template qa");
    EXPECT_EQ(commands_of(r, ""), 2);
}

TEST(CliExperiment, ResultsOfAnotherTypeAreOthers) {
    const Words words =
        with(trials("alpha", {"--split", "forget10", "--methods", "ga", "--alpha", "1"}), "trials", "types");
    must(words);
    EXPECT_EQ(commands_of(must(words + Words{"--threads", "2"}), ""), 0);
    EXPECT_EQ(commands_of(must(words + Words{"--dtype", "bf16"}), "unlearn"), 1);
}

/// The folders of the trials' runs whose names begin so.
std::vector<fs::path> runs_of(const std::string& begin) {
    std::vector<fs::path> out;
    for (const auto& entry : fs::directory_iterator(playground() / "trials/runs"))
        if (entry.path().filename().string().starts_with(begin)) out.push_back(entry.path());
    return out;
}

TEST(CliExperiment, AlphaZeroIsTheEpochBitForBit) {
    must(trials("alpha", {"--split", "forget10", "--methods", "ga", "--alpha", "0"}));
    const auto run = runs_of("forget10-ga-constant");
    const auto zero = runs_of("forget10-ga-alpha0-");
    ASSERT_EQ(run.size(), 1u);
    ASSERT_EQ(zero.size(), 1u);
    const fs::path point = fs::directory_iterator(zero[0])->path();
    const Json epoch = read_json(point / "extrapolation.json")["epoch"];
    const fs::path base = run[0] / "epochs" / epoch.dump();
    for (const char* file : {"TOFU_EVAL.json", "TOFU_SUMMARY.json"})
        EXPECT_EQ(read_file(point / file) == read_file(base / file), true) << file;
    // The summary's forget quality is that of the page, which computes it from the log again.
    const Json ladder = read_json(playground() / "trials/alpha.json")["seeds"][0]["ladders"]["ga"];
    EXPECT_EQ(ladder[0]["forget_quality"], read_json(base / "TOFU_SUMMARY.json")["forget_quality"]);
    // Of the run, only the models that UIPE starts from are kept.
    std::size_t models = 0;
    for (const auto& entry : fs::directory_iterator(run[0] / "epochs")) models += fs::exists(entry.path() / "model");
    EXPECT_TRUE(fs::exists(base / "model"));
    EXPECT_LE(models, 2u) << "of four, chosen among the first two";
}

TEST(CliExperiment, TradeoffSaysWhatIsWrong) {
    const auto says = [](const Words& words, const std::string& part) {
        const Result r = uipe(words);
        EXPECT_EQ(r.code, 2);
        EXPECT_SAYS(r.err, part);
    };
    says(trials("tradeoff", {"--splits", "forget01", "forget10"}), "one a split");
    says(trials("tradeoff", {"--splits", "forget10", "--alpha", "0"}), "above 0");
    says(trials("tradeoff", {"--splits", "forget10", "--methods", "none"}), "none");
    Json log = read_json(playground() / "retain/TOFU_EVAL.json");
    for (auto& [index, row] : log["forget_Q_A_ROUGE"]["value_by_index"].items()) row["ground_truth"] = "none of these";
    fs::create_directories(playground() / "other_questions");
    write_file(playground() / "other_questions/TOFU_EVAL.json", log.dump());
    Words other = trials("tradeoff", {"--splits", "forget10"});
    std::replace(other.begin(), other.end(), std::string("retain"), std::string("other_questions"));
    says(other, "of other questions");
    says({"experiment", "tradeoff", "--splits", "forget20"}, "forget20");
    says({"experiment", "tradeoff", "--alpha", "1", "nan"}, "no number");
    says({"experiment", "tradeoff", "--lr", "nan"}, "--lr");
    says({"experiment", "tradeoff", "--beta", "nan"}, "--beta");
    says({"experiment", "tradeoff", "--quick", "--alpha", "0"}, "above 0");
    says({"experiment", "tradeoff", "--model", "base/model"}, "--tofu");
}

TEST(CliExperiment, RelatedSaysWhatIsWrongBeforeItsStart) {
    const auto says = [](const Words& words, const std::string& part) {
        SCOPED_TRACE(part);
        const Result r = uipe(words);
        EXPECT_EQ(r.code, 2);
        EXPECT_SAYS(r.err, part);
        EXPECT_EQ(commands_of(r, ""), 0);
        EXPECT_FALSE(fs::exists(playground() / "wrong"));
    };
    const Words words{"experiment", "related", "--out", "wrong"};
    says(words + Words{"--uipe-epoch", "11"}, "--uipe-epoch 11 is behind the last of --epochs 10");
    says(words + Words{"--quick", "--uipe-epoch", "4"}, "--epochs 3");
    says(words + Words{"--quick", "--epochs", "5", "--uipe-epoch", "6"}, "--epochs 5");
    says(words + Words{"--method", "nope"}, "nope");
    says(words + Words{"--template", "nope"}, "nope");
    says(words + Words{"--width", "62"}, "--width must be a multiple of 8");
    says(words + Words{"--alpha", "1", "0"}, "above 0");
    says(words + Words{"--alpha", "1", "0.5", "1"}, "twice");
    says(with(related("wrong"), "few_k2.json", "world/related_k2.json"), "few_k1.json has 4 rows");
    for (const char* set : {"k1", "k2"}) write_facts(cat("two_", set, ".json"), set, 2);
    says(with(with(related("wrong"), "few_k1.json", "two_k1.json"), "few_k2.json", "two_k2.json"), "fewer than 3");
}

TEST(CliExperiment, AFolderIsOneExperimentsAtATime) {
    fs::create_directories(playground() / "held");
    const std::shared_ptr<void> lock = lock_folder(playground() / "held");
    const Result r = uipe(related("held"));
    EXPECT_EQ(r.code, 2);
    EXPECT_SAYS(r.err, "held: another process is writing here");
    EXPECT_TRUE(fs::is_empty(playground() / "held"));
}

TEST(CliExperiment, SaysWhatIsMissing) {
    const Result alone = uipe({"experiment"});
    EXPECT_EQ(alone.code, 2);
    const Result k1 = uipe({"experiment", "related", "--k1", "few_k1.json"});
    EXPECT_EQ(k1.code, 2);
    EXPECT_SAYS(k1.err, "--k2");
    EXPECT_SAYS(must({"experiment", "related", "--help"}).out, "--pairs");
}

TEST(Related, WhereALevelIsReachedIsBetweenPoints) {
    const auto level = [](const KnowledgePoint& p) { return p.k1.probability; };
    const auto value = [](const KnowledgePoint& p) { return p.utility; };
    std::vector<KnowledgePoint> points(3);
    points[0].k1.probability = 0.9, points[0].utility = 0.6;
    points[1].k1.probability = 0.5, points[1].utility = 0.4;
    points[2].k1.probability = 0.1, points[2].utility = 0.0;
    EXPECT_DOUBLE_EQ(where_reached(points, 0.7, level, value), 0.5);
    EXPECT_DOUBLE_EQ(where_reached(points, 0.1, level, value), 0.0);
    EXPECT_TRUE(std::isnan(where_reached(points, 0.05, level, value)));
    EXPECT_TRUE(std::isnan(where_reached(points, 0.95, level, value)));
}

}  // namespace
}  // namespace uipe::unlearn::testing
