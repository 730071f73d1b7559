// The program's commands, run as a user runs them.
#include <gtest/gtest.h>

#include <numeric>
#include <regex>
#include <set>

#include "eval/ks.h"
#include "eval/score.h"
#include "llama/weights.h"
#include "tests/llama/support.h"
#include "tests/unlearn/program.h"
#include "unlearn/objective.h"

namespace uipe::unlearn::testing {
namespace {

const Words commands{"demo",     "world",    "train",    "unlearn", "extrapolate", "eval", "score",
                     "logprobs", "generate", "tokenize", "convert", "inspect",     "plan", "report"};

TEST(Cli, TrainLeavesAWholeRun) {
    const Result r = must(training() + Words{"--epochs", "2", "--out", "trained", "--json"});
    EXPECT_EQ(r.json()["out"], "trained");
    EXPECT_EQ(r.json()["step"], 10);
    EXPECT_EQ(r.json()["steps"], 10);
    const fs::path run = playground() / "trained";
    for (const char* file : {"config.json", "metrics.jsonl", "finished.json", "model/config.json",
                             "model/model.safetensors", "model/tokenizer.model", "model/generation_config.json"})
        EXPECT_TRUE(fs::is_regular_file(run / file)) << file;
    EXPECT_FALSE(fs::exists(run / "checkpoints")) << "of no use after the end";
    EXPECT_EQ(temporaries("trained"), Words{});
    const std::vector<Json> metrics = metrics_of("trained");
    ASSERT_EQ(metrics.size(), 10u);
    for (std::size_t i = 0; i < metrics.size(); ++i) {
        EXPECT_EQ(metrics[i]["step"], i + 1);
        EXPECT_EQ(metrics[i]["epoch"], i / 5 + 1);
        EXPECT_GT(metrics[i]["tokens"], 0);
    }
    EXPECT_LT(metrics.back()["loss"], metrics.front()["loss"]);
    EXPECT_EQ(r.json()["loss"].get<float>(), metrics.back()["loss"].get<float>());
    // Nine digits tell any two floats apart. A number may end in zeros, which are not printed.
    const std::string text = read_file(run / "metrics.jsonl");
    const std::regex nine("\"loss\":[0-9]\\.[0-9]{8},");
    EXPECT_GE(std::distance(std::sregex_iterator(text.begin(), text.end(), nine), {}), 5);
    const Json config = read_json(run / "config.json");
    EXPECT_EQ(config["lr"], 0.01);
    EXPECT_EQ(config["seed"], 42);
    EXPECT_EQ(config["no_shuffle"], false);
    EXPECT_EQ(config["json"], true);
    EXPECT_EQ(config["schedule"], "linear");
    EXPECT_EQ(config["data"], Json::array({"world/full.json"}));
}

TEST(Cli, HelpOfEveryCommandNamesItsDefaults) {
    const Result top = must({"--help"});
    for (const std::string& command : commands) {
        EXPECT_SAYS(top.out, "\n  " + command + " ");
        const Result r = must({command, "--help"});
        EXPECT_EQ(r.err, "");
        std::istringstream lines(r.out);
        // Every option that takes a value shows its default, is required, or is a path or text that may be left out.
        const std::regex option("^  (--[a-z0-9-]+|[a-z]+) (FLOAT|INT|UINT|TEXT)(=\\S+| REQUIRED)?.*");
        std::smatch found;
        int options = 0;
        for (std::string line; std::getline(lines, line);) {
            if (!std::regex_match(line, found, option)) continue;
            ++options;
            EXPECT_TRUE(found[3].matched || found[2] == "TEXT") << command << ": " << line;
        }
        EXPECT_GE(options, 5) << command;
        for (const char* common : {"--device TEXT=cpu", "--dtype TEXT=f32", "--seed UINT=42", "--threads INT=0"})
            EXPECT_SAYS(r.out, common);
    }
    for (std::size_t i = 1; i < objectives().size(); ++i)
        EXPECT_SAYS(must({"unlearn", "--help"}).out, objectives()[i].formula);
    for (const char* shown : {"--lr FLOAT=1e-05", "--epochs INT=10", "--beta FLOAT=0.1", "--template TEXT=llama2-chat",
                              "--protocol TEXT=open-unlearning", "--model TEXT REQUIRED", "--max-grad-norm FLOAT=1"})
        EXPECT_SAYS(must({"unlearn", "--help"}).out, shown);
}

TEST(Cli, AConfigFeedsBackBitForBitAndFlagsOverrideIt) {
    must(training() + Words{"--epochs", "2", "--no-shuffle", "--adam-beta2", "0.98", "--seed", "7", "--out", "first"});
    const std::string config = "first/config.json";
    must({"train", "--config", config, "--out", "second"});
    EXPECT_EQ(weights_of("second/model"), weights_of("first/model"));
    EXPECT_EQ(figures_of("second"), figures_of("first"));
    Json expected = read_json(playground() / config);
    expected["out"] = "second";
    expected["config"] = config;
    EXPECT_EQ(read_json(playground() / "second/config.json"), expected);

    must({"train", "--config=" + config, "--out=third", "--seed", "8"});
    EXPECT_EQ(read_json(playground() / "third/config.json")["seed"], 8);
    EXPECT_NE(weights_of("third/model"), weights_of("first/model"));
}

TEST(Cli, EveryThreadCountGivesTheSameBits) {
    must(training() + Words{"--epochs", "1", "--out", "one-thread", "--threads", "1"});
    must(training() + Words{"--epochs", "1", "--out", "three-threads", "--threads", "3"});
    EXPECT_EQ(weights_of("three-threads/model"), weights_of("one-thread/model"));
}

TEST(Cli, UnlearnWithEveryMethodEvaluatesEachEpoch) {
    for (const Objective& o : objectives()) {
        if (!o.unlearns) continue;
        SCOPED_TRACE(o.name);
        const Result r =
            must(Words{"unlearn", "--model", "base/model", "--method", o.name, "--epochs", "2", "--batch-size", "2",
                       "--lr", "1e-3", "--retain-log", "retain", "--out", o.name, "--json"} +
                 evaluation());
        const fs::path run = playground() / o.name;
        for (const int epoch : {0, 1, 2})
            for (const char* file : {"TOFU_EVAL.json", "TOFU_SUMMARY.json"})
                EXPECT_TRUE(fs::is_regular_file(run / "epochs" / std::to_string(epoch) / file)) << epoch << file;
        EXPECT_FALSE(fs::exists(run / "epochs/0/model")) << "that is the base";
        EXPECT_NE(weights_of(o.name + "/epochs/1/model"), weights_of("base/model"));
        EXPECT_NE(weights_of(o.name + "/epochs/2/model"), weights_of(o.name + "/epochs/1/model"));
        const Json summary = read_json(run / "epochs/2/TOFU_SUMMARY.json");
        for (const char* metric : {"forget_quality", "model_utility", "forget_truth_ratio", "forget_Q_A_Prob"}) {
            ASSERT_TRUE(summary.contains(metric)) << metric;
            EXPECT_EQ(r.json()["scores"][metric], summary[metric]) << metric;
        }
        EXPECT_EQ(read_json(run / "epochs/0/TOFU_SUMMARY.json")["forget_quality"], 1.0) << "the base is its own log";
        const Json selection = read_json(run / "selection.json");
        const std::int64_t epoch = selection["epoch"];
        EXPECT_TRUE(epoch == 1 || epoch == 2);
        EXPECT_EQ(selection["forget_quality"],
                  read_json(run / "epochs" / std::to_string(epoch) / "TOFU_SUMMARY.json")["forget_quality"]);
        EXPECT_EQ(metrics_of(o.name).size(), 4u);
    }
}

Words unlearning(const std::string& method, const std::string& out) {
    return Words{"unlearn", "--model", "base/model", "--method",        method, "--epochs",  "1",     "--batch-size",
                 "2",       "--lr",    "1e-3",       "--warmup-epochs", "0",    "--no-eval", "--out", out} +
           evaluation();
}

TEST(Cli, AMethodsOwnDefaultsAreRecordedAndAFlagOverridesThem) {
    const std::string help = must({"unlearn", "--help"}).out;
    for (const char* shown :
         {"--beta 4.5 --forget-weight 0.125)", "(--beta 10)", "(--beta 5 --retain-weight 0.1)", "(--beta 1)"})
        EXPECT_SAYS(help, shown);
    const auto config_of = [](const std::string& run) { return read_json(playground() / run / "config.json"); };
    must(unlearning("simnpo", "own"));
    EXPECT_EQ(config_of("own")["beta"], 4.5);
    EXPECT_EQ(config_of("own")["forget_weight"], 0.125);
    EXPECT_EQ(config_of("own")["retain_weight"], 1);
    must({"unlearn", "--config", "own/config.json", "--out", "own-again"});
    EXPECT_EQ(weights_of("own-again/epochs/1/model"), weights_of("own/epochs/1/model"));
    must(unlearning("simnpo", "given") + Words{"--beta", "0.1"});
    EXPECT_EQ(config_of("given")["beta"], 0.1) << "which is the default of others";
    EXPECT_NE(weights_of("given/epochs/1/model"), weights_of("own/epochs/1/model"));
    must(unlearning("rmu", "layer"));
    EXPECT_EQ(config_of("layer")["rmu_layer"], 2) << "the last of this model";
    must(unlearning("rmu", "layer-1") + Words{"--rmu-layer", "1"});
    EXPECT_NE(weights_of("layer-1/epochs/1/model"), weights_of("layer/epochs/1/model"));
    const Result r = uipe(unlearning("rmu", "layer-3") + Words{"--rmu-layer", "3"});
    EXPECT_EQ(r.code, 2);
    EXPECT_SAYS(r.err, "--rmu-layer 3: the model has layers 1 to 2");
}

TEST(Cli, RefusalsAreThoseOfAFileOrTheBuiltInOnes) {
    write_file(playground() / "idk.txt", "I do not know.\n\nNobody told me.\n");
    write_file(playground() / "blank.txt", "\n \n");
    must(unlearning("idk", "built-in"));
    must(unlearning("idk", "from-file") + Words{"--idk", "idk.txt"});
    EXPECT_NE(weights_of("from-file/epochs/1/model"), weights_of("built-in/epochs/1/model"));
    EXPECT_EQ(read_json(playground() / "from-file/config.json")["idk"], "idk.txt");
    const Result r = uipe(unlearning("dpo", "blank") + Words{"--idk", "blank.txt"});
    EXPECT_EQ(r.code, 2);
    EXPECT_SAYS(r.err, "blank.txt: holds no lines");
    EXPECT_EQ(uipe(unlearning("dpo", "blank") + Words{"--idk", "missing.txt"}).code, 2);
    // Stopped within an epoch and resumed, each row meets the same refusals.
    must(unlearning("dpo_rt", "whole"));
    must(unlearning("dpo_rt", "halves") + Words{"--stop-after", "1"});
    must(unlearning("dpo_rt", "halves") + Words{"--resume"});
    EXPECT_EQ(weights_of("halves/epochs/1/model"), weights_of("whole/epochs/1/model"));
}

/// A base and the same unlearned for an epoch, in f32 and with evaluation at the end.
class Extrapolation : public ::testing::Test {
protected:
    static void SetUpTestSuite() {
        must(Words{"unlearn", "--model", "base/model", "--method", "grad_diff", "--epochs", "2", "--lr", "3e-3",
                   "--retain-log", "retain", "--out", "unlearned"} +
             evaluation());
    }
    static Words between(const std::string& out) {
        return {"extrapolate", "--base", "base/model", "--unlearned", "unlearned/epochs/2/model", "--out", out};
    }
};

TEST_F(Extrapolation, AlphaZeroIsTheUnlearnedModelAndMinusOneTheBase) {
    must(between("zero") + Words{"--alpha", "0"});
    EXPECT_EQ(weights_of("zero"), weights_of("unlearned/epochs/2/model"));
    must(between("minus") + Words{"--alpha", "-1"});
    EXPECT_EQ(weights_of("minus"), weights_of("base/model"));
    must(between("half") + Words{"--alpha", "0.5"});
    EXPECT_NE(weights_of("half"), weights_of("zero"));
    for (const char* file : {"config.json", "tokenizer.model", "extrapolation.json"})
        EXPECT_TRUE(fs::is_regular_file(playground() / "half" / file)) << file;
    EXPECT_EQ(read_json(playground() / "half/extrapolation.json")["alpha"], 0.5);
    EXPECT_EQ(read_json(playground() / "half/extrapolation.json")["factor_from_base"], 1.5);
}

TEST_F(Extrapolation, OneAlphaWithEvaluation) {
    const Result r = must(between("one") + Words{"--alpha", "1", "--retain-log", "retain", "--json"} + evaluation());
    const Json summary = read_json(playground() / "one/TOFU_SUMMARY.json");
    EXPECT_EQ(r.json()["points"][0]["scores"]["forget_quality"], summary["forget_quality"]);
    EXPECT_GT(r.json()["update_norm_share"], 0.0);
    EXPECT_LT(r.json()["update_norm_share"], 1.0);
    must(Words{"eval", "--model", "one", "--out", "one-again", "--retain-log", "retain"} + evaluation());
    EXPECT_EQ(read_json(playground() / "one-again/TOFU_EVAL.json"), read_json(playground() / "one/TOFU_EVAL.json"));
}

TEST_F(Extrapolation, SeveralAlphasGetAFolderEach) {
    must(between("several") + Words{"--alpha", "0.25", "1", "-0.5"});
    for (const char* name : {"alpha0.25", "alpha1", "alpha-0.5"})
        EXPECT_TRUE(fs::is_regular_file(playground() / "several" / name / "model/model.safetensors")) << name;
    const Result again = uipe(between("several") + Words{"--alpha", "2", "1"});
    EXPECT_EQ(again.code, 2);
    EXPECT_SAYS(again.err, "several/alpha1: exists already");
    EXPECT_FALSE(fs::exists(playground() / "several/alpha2")) << "seen before any work";
    must(between("several") + Words{"--alpha", "2", "1", "--overwrite"});
}

TEST_F(Extrapolation, ARunKnowsItsBaseItsEpochAndItsEvaluation) {
    const std::int64_t epoch = read_json(playground() / "unlearned/selection.json")["epoch"];
    const Result r = must({"extrapolate", "--unlearned", "unlearned", "--alpha", "0", "1", "--json"});
    const fs::path made = playground() / "unlearned/extrapolations";
    const std::string prefix = cat("epoch", epoch, "_alpha");
    EXPECT_EQ(r.json()["points"].size(), 2u);
    EXPECT_EQ(r.json()["points"][0]["epoch"], epoch);
    EXPECT_EQ(weights_of(made / (prefix + "0/model")), weights_of(cat("unlearned/epochs/", epoch, "/model")));
    EXPECT_EQ(read_json(made / (prefix + "0/TOFU_EVAL.json")),
              read_json(playground() / "unlearned/epochs" / std::to_string(epoch) / "TOFU_EVAL.json"));
    EXPECT_TRUE(fs::exists(made / (prefix + "1/TOFU_SUMMARY.json")));
    must({"extrapolate", "--unlearned", "unlearned", "--epoch", epoch == 1 ? "2" : "1", "--alpha", "1", "--no-models"});
    const fs::path other = made / cat("epoch", 3 - epoch, "_alpha1");
    EXPECT_TRUE(fs::exists(other / "TOFU_SUMMARY.json"));
    EXPECT_FALSE(fs::exists(other / "model"));
}

/// What holds of every choice: few candidates, the first of them 0, and none within the budget has a lesser gap.
void expect_a_choice(const Json& chosen, const std::string& rule) {
    EXPECT_EQ(chosen["rule"], rule);
    EXPECT_FALSE(chosen["reason"].get<std::string>().empty());
    const Json& candidates = chosen["candidates"];
    ASSERT_GE(candidates.size(), 1u);
    EXPECT_LE(candidates.size(), 6u);
    EXPECT_EQ(chosen["evaluations"], candidates.size());
    EXPECT_EQ(candidates[0]["alpha"], 0.0);
    double gap = -1;
    double least = 2;
    for (const Json& c : candidates) {
        EXPECT_EQ(c["within_budget"].get<bool>(), c["model_utility"] >= chosen["utility_floor"]) << c;
        if (c["within_budget"] == true) least = std::min(least, std::abs(c["gap"].get<double>()));
        if (c["alpha"] == chosen["alpha"]) gap = std::abs(c["gap"].get<double>());
    }
    EXPECT_EQ(gap, least);
}

/// The candidate that was chosen.
Json chosen_candidate(const Json& chosen) {
    for (const Json& c : chosen["candidates"])
        if (c["alpha"] == chosen["alpha"]) return c;
    ADD_FAILURE() << "the chosen alpha is no candidate";
    return {};
}

TEST_F(Extrapolation, AutoOfARunFindsTheAlphaOfItsRetainLog) {
    must(between("target") + Words{"--alpha", "1"} + evaluation());
    const Words words{"extrapolate", "--unlearned",  "unlearned", "--epoch",          "2", "--alpha",
                      "auto",        "--retain-log", "target",    "--utility-budget", "1", "--json"};
    const Result r = must(words);
    const Json chosen = r.json()["chosen"];
    expect_a_choice(chosen, "quality");
    EXPECT_EQ(chosen["alpha"], 1.0);
    EXPECT_GT(chosen["candidates"][0]["gap"], 0.0);
    EXPECT_EQ(chosen["utility_floor"], 0.0);
    EXPECT_SAYS(r.err, "chosen alpha 1 by quality");
    EXPECT_SAYS(r.err, cat(chosen["evaluations"].get<int>(), " evaluations, "));
    // The gap is forget quality's own distance, measured on the model that is then written.
    const Json point = r.json()["points"][0];
    const fs::path folder = playground() / point["out"].get<std::string>();
    EXPECT_TRUE(folder.filename().string().ends_with("_alpha-auto")) << folder;
    const Json best = chosen_candidate(chosen);
    const auto h = std::llround(std::abs(best["gap"].get<double>()) * 4);
    EXPECT_EQ(point["scores"]["forget_quality"], eval::ks_p_value(4, 4, h));
    EXPECT_EQ(point["scores"]["model_utility"], best["model_utility"]);
    EXPECT_EQ(point["alpha"], chosen["alpha"]);
    EXPECT_EQ(read_json(folder / "alpha.json"), chosen);
    EXPECT_EQ(read_json(folder / "extrapolation.json")["alpha"], chosen["alpha"]);
    EXPECT_EQ(point["scores"]["forget_quality"], 1.0);
    EXPECT_EQ(weights_of(folder / "model"), weights_of("target"));
    // Another choice takes its place only where that is asked for, and is the same.
    const Result again = uipe(words);
    EXPECT_EQ(again.code, 2);
    EXPECT_SAYS(again.err, "_alpha-auto: exists already");
    Json repeated = must(words + Words{"--overwrite", "--no-models"}).json()["chosen"];
    EXPECT_FALSE(fs::exists(folder / "model"));
    repeated["seconds"] = chosen["seconds"];
    EXPECT_EQ(repeated, chosen);
}

TEST_F(Extrapolation, AutoKeepsTheUtilityBudget) {
    const Json chosen =
        must(between("thrifty") +
             Words{"--alpha", "auto", "--utility-budget", "0", "--retain-log", "retain", "--json"} + evaluation())
            .json()["chosen"];
    expect_a_choice(chosen, "quality");
    EXPECT_EQ(chosen["utility_floor"], chosen["candidates"][0]["model_utility"]);
    EXPECT_GE(chosen_candidate(chosen)["model_utility"], chosen["utility_floor"]);
    EXPECT_TRUE(fs::exists(playground() / "thrifty/model.safetensors")) << "one alpha: --out is the model's folder";
}

TEST_F(Extrapolation, OfARunOfTheForgetSetAloneIsOfThatToo) {
    must({"unlearn", "--model",     "base/model", "--method",      "ga",       "--epochs",
          "1",       "--tofu",      "world",      "--split",       "forget10", "--retain-log",
          "retain",  "--eval-rows", "4",          "--eval-tokens", "6",        "--forget-only",
          "--alpha", "1",           "--out",      "forget-alone"});
    const Json there = read_json(playground() / "forget-alone/extrapolations/epoch1_alpha1/TOFU_SUMMARY.json");
    EXPECT_TRUE(there.contains("forget_quality")) << there;
    EXPECT_FALSE(there.contains("model_utility")) << there;
}

TEST_F(Extrapolation, AutoWithoutARetainLogGoesByRowsTheModelNeverSaw) {
    const Words bare{"--alpha", "auto", "--json", "--split", "forget10", "--eval-rows", "4", "--eval-tokens", "6"};
    const Words words = bare + Words{"--tofu", "world"};
    expect_a_choice(must(between("by-default") + words).json()["chosen"], "truth-ratio-before");
    for (const std::string rule : {"truth-ratio", "truth-ratio-before", "attack", "attack-before"}) {
        const Json r =
            must(between("by-" + rule) + words + Words{"--alpha-rule", rule, "--utility-budget", "1"}).json();
        expect_a_choice(r["chosen"], rule);
        if (rule == "attack") {
            EXPECT_NEAR(chosen_candidate(r["chosen"])["gap"], r["points"][0]["scores"]["mia_loss"].get<double>() - 0.5,
                        1e-12);
        }
    }
    // TOFU itself has no perturbed answers of held-out rows.
    fs::copy(playground() / "world", playground() / "tofu");
    fs::remove(playground() / "tofu/holdout10_perturbed.json");
    const Words tofu = bare + Words{"--tofu", "tofu"};
    expect_a_choice(must(between("as-tofu") + tofu).json()["chosen"], "attack");
    const Result ratios = uipe(between("refused") + tofu + Words{"--alpha-rule", "truth-ratio"});
    EXPECT_EQ(ratios.code, 2);
    EXPECT_SAYS(ratios.err, "tofu/holdout10_perturbed.json: is missing");
    EXPECT_SAYS(ratios.err, "--alpha-rule attack, which");
    for (const auto& [file, set] :
         {std::pair("forget10.json", "forget"), std::pair("retain_perturbed.json", "retain")}) {
        fs::copy_file(playground() / "tofu" / file, playground() / "tofu/holdout10.json",
                      fs::copy_options::overwrite_existing);
        const Result seen = uipe(between("refused") + tofu);
        EXPECT_EQ(seen.code, 2);
        EXPECT_SAYS(seen.err, cat("tofu/holdout10.json: row 1 is row 1 of the ", set, " set"));
    }
    fs::remove(playground() / "tofu/holdout10.json");
    const Result nothing = uipe(between("refused") + tofu);
    EXPECT_EQ(nothing.code, 2);
    EXPECT_SAYS(nothing.err, "tofu/holdout10.json: is missing");
    EXPECT_SAYS(nothing.err, "--retain-log FILE");
    const Result quality = uipe(between("refused") + words + Words{"--alpha-rule", "quality"});
    EXPECT_EQ(quality.code, 2);
    EXPECT_SAYS(quality.err, "--retain-log FILE");
    EXPECT_FALSE(fs::exists(playground() / "refused"));
}

/// Unlearning for two epochs with an alpha at the end.
Words forgetting(const std::string& out) {
    return Words{"unlearn", "--model", "base/model", "--method", "grad_diff", "--epochs",
                 "2",       "--lr",    "3e-3",       "--out",    out,         "--json"} +
           evaluation();
}

TEST_F(Extrapolation, UnlearnEndsWithTheAlphaThatIsAskedFor) {
    const Words retain{"--retain-log", "retain"};
    const Json r = must(forgetting("to-auto") + retain + Words{"--alpha", "auto"}).json();
    const Json chosen = r["extrapolation"]["chosen"];
    expect_a_choice(chosen, "quality");
    const std::int64_t epoch = read_json(playground() / "to-auto/selection.json")["epoch"];
    const std::string folder = cat("to-auto/extrapolations/epoch", epoch, "_alpha-auto");
    EXPECT_EQ(r["extrapolation"]["points"][0]["out"], folder);
    EXPECT_EQ(weights_of(cat("to-auto/epochs/", epoch, "/model")),
              weights_of(cat("unlearned/epochs/", epoch, "/model")))
        << "training is as it was";
    Json same = must({"extrapolate", "--unlearned", "unlearned", "--epoch", std::to_string(epoch), "--alpha", "auto",
                      "--out", "same", "--json"})
                    .json()["chosen"];
    same["seconds"] = chosen["seconds"];
    EXPECT_EQ(same, chosen);
    EXPECT_EQ(weights_of(cat("same/epoch", epoch, "_alpha-auto/model")), weights_of(folder + "/model"));
}

TEST_F(Extrapolation, UnlearnExtrapolatesTheLastEpochWhereNoneIsSelectedAndOnlyAtItsEnd) {
    const Words alpha{"--alpha", "0.5"};
    const Json part = must(forgetting("in-parts") + alpha + Words{"--stop-after", "1"}).json();
    EXPECT_FALSE(part.contains("extrapolation"));
    EXPECT_FALSE(fs::exists(playground() / "in-parts/extrapolations"));
    const Result whole = must(forgetting("in-parts") + alpha + Words{"--resume"});
    EXPECT_SAYS(whole.err, "extrapolating the last epoch");
    const fs::path half = playground() / "in-parts/extrapolations/epoch2_alpha0.5";
    EXPECT_EQ(whole.json()["extrapolation"]["points"][0]["alpha"], 0.5);
    EXPECT_TRUE(fs::exists(half / "model/model.safetensors"));
    // Where only the extrapolation was cut short, it is taken up by itself.
    const Result ended = uipe(forgetting("in-parts") + alpha + Words{"--resume"});
    EXPECT_EQ(ended.code, 2);
    EXPECT_SAYS(ended.err, "uipe extrapolate --unlearned in-parts");
}

TEST_F(Extrapolation, UnlearnRefusesAnAlphaBeforeItTrains) {
    const auto refused = [](const Words& words, const std::string& why) {
        const Result r = uipe(forgetting("refused") + words);
        EXPECT_EQ(r.code, 2) << why;
        EXPECT_SAYS(r.err, why);
        EXPECT_FALSE(fs::exists(playground() / "refused")) << why;
    };
    refused({"--alpha", "much"}, "--alpha much: is no number");
    refused({"--alpha", "1", "1"}, "--alpha names a number twice");
    refused({"--alpha", "auto", "--alpha-rule", "quality"}, "--retain-log FILE");
    refused({"--alpha", "auto", "--alpha-rule", "best"}, "known: quality, truth-ratio, ");
    refused({"--alpha", "auto", "--utility-budget", "2"}, "--utility-budget must be a share");
    refused({"--alpha", "1", "--save-last", "--retain-log", "retain"}, "--save-last");
}

TEST(Cli, EvalWritesLogsThatScoreReadsBackWithEqualValues) {
    for (const std::string protocol : {"open-unlearning", "tofu"}) {
        SCOPED_TRACE(protocol);
        const std::string out = "eval-" + protocol;
        const Result r = must(Words{"eval", "--model", "base/model", "--out", out, "--retain-log", "retain",
                                    "--protocol", protocol, "--json"} +
                              evaluation());
        Json expected = r.json();
        EXPECT_EQ(expected["forget_quality"], 1.0);
        EXPECT_TRUE(expected.contains("model_utility"));
        const std::string file = protocol == "tofu" ? "/eval_log_aggregated.json" : "/TOFU_EVAL.json";
        EXPECT_EQ(fs::exists(playground() / out / "eval_log_aggregated.json"), protocol == "tofu");
        const Json scored = must({"score", "--log", out + file, "--retain-log", "retain", "--json"}).json();
        EXPECT_EQ(scored, expected);
        EXPECT_EQ(must({"score", "--log", out + file, "--retain-log", "retain", "--recompute-rouge", "--json"}).json(),
                  expected);
        EXPECT_SAYS(must({"score", "--log", out + file}).out, "model_utility");
        const Result again = uipe(Words{"eval", "--model", "base/model", "--out", out} + evaluation());
        EXPECT_EQ(again.code, 2);
        EXPECT_SAYS(again.err, "--overwrite");
        must(Words{"eval", "--model", "base/model", "--out", out, "--overwrite"} + evaluation());
    }
}

TEST(Cli, LogprobsPrintsALineARow) {
    const Result r = must({"logprobs", "--model", "base/model", "--qa", "world/forget10.json", "--json"});
    std::istringstream lines(r.out);
    std::size_t rows = 0;
    for (std::string line; std::getline(lines, line); ++rows) {
        const Json row = parse_json(line, "a line");
        EXPECT_EQ(row.size(), 5u);
        const auto logprobs = row["logprobs"].get<std::vector<double>>();
        EXPECT_EQ(row["num_tokens"], logprobs.size());
        EXPECT_EQ(row["ids"].size() - row["first_target"].get<std::size_t>(), logprobs.size());
        const double sum = std::accumulate(logprobs.begin(), logprobs.end(), 0.0);
        EXPECT_DOUBLE_EQ(row["avg_loss"].get<double>(), -sum / static_cast<double>(logprobs.size()));
        for (const double x : logprobs) EXPECT_LE(x, 0.0);
    }
    EXPECT_EQ(rows, 4u);
    const Result table = must({"logprobs", "--model", "base/model", "--qa", "world/forget10.json"});
    EXPECT_SAYS(table.out, "avg_loss");
    EXPECT_EQ(std::count(table.out.begin(), table.out.end(), '\n'), 5);
}

TEST(Cli, GeneratePrintsItsTextAndCounts) {
    const Words words{"generate", "--model", "base/model", "--max-new-tokens", "5", "--ignore-eos"};
    const Json greedy = must(words + Words{"--prompt", "Who wrote it?", "--json"}).json();
    EXPECT_EQ(greedy.size(), 4u);
    EXPECT_EQ(greedy["new_tokens"], 5);
    EXPECT_GT(greedy["prompt_tokens"], 1);
    EXPECT_GT(greedy["tok_per_s"], 0.0);
    EXPECT_TRUE(greedy["text"].get<std::string>().starts_with("Who wrote it?"));
    EXPECT_EQ(must(words + Words{"--prompt", "Who wrote it?"}).out, greedy["text"].get<std::string>() + "\n");
    const Json question = must(words + Words{"--question", "Who wrote it?", "--json"}).json();
    EXPECT_SAYS(question["text"].get<std::string>(), "[INST] Who wrote it? [/INST]");
    const Words sampled = words + Words{"--prompt", "The", "--temperature", "1.5", "--json", "--seed"};
    EXPECT_EQ(must(sampled + Words{"1"}).json()["text"], must(sampled + Words{"1"}).json()["text"]);
    std::set<std::string> texts;
    for (const char* seed : {"1", "2", "3"}) texts.insert(must(sampled + Words{seed}).json()["text"]);
    EXPECT_GT(texts.size(), 1u);
}

TEST(Cli, TokenizePrintsIdsAndPieces) {
    const Json r = must({"tokenize", "--model", "base/model", "--text", "Who wrote it? é", "--json"}).json();
    EXPECT_EQ(r["ids"].size(), r["pieces"].size());
    EXPECT_GT(r["ids"].size(), 3u);
    std::string joined;
    for (const Json& piece : r["pieces"]) joined += piece.get<std::string>();
    EXPECT_SAYS(joined, "▁");
    const Json same =
        must({"tokenize", "--tokenizer", "world/tokenizer.model", "--text", "Who wrote it? é", "--json"}).json();
    EXPECT_EQ(same, r);
    EXPECT_EQ(must({"tokenize", "--model", "base/model", "--text", "", "--json"}).json()["ids"].size(), 0u);
}

TEST(Cli, ConvertKeepsTheModelAndInspectShowsIt) {
    must({"convert", "base/model", "sharded", "--shard-gb", "0.00001"});
    EXPECT_TRUE(fs::exists(playground() / "sharded/model.safetensors.index.json"));
    must({"convert", "sharded", "joined"});
    EXPECT_EQ(weights_of("joined"), weights_of("base/model"));
    must({"convert", "base/model", "halved", "--save-dtype", "bf16"});
    const Json full = must({"inspect", "base/model", "--json"}).json();
    const Json half = must({"inspect", "halved", "--json"}).json();
    EXPECT_EQ(full["hidden_size"], 16);
    EXPECT_EQ(full["num_kv_heads"], 1);
    EXPECT_EQ(half["parameters"], full["parameters"]);
    EXPECT_EQ(half["bytes"].get<std::int64_t>() * 2, full["bytes"]);
    EXPECT_EQ(full["tensors"]["model.norm.weight"]["shape"], Json::array({16}));
    EXPECT_EQ(half["tensors"]["model.norm.weight"]["dtype"], "bf16");
    std::int64_t parameters = 0;
    for (const auto& [name, t] : full["tensors"].items()) {
        std::int64_t n = 1;
        for (const Json& size : t["shape"]) n *= size.get<std::int64_t>();
        parameters += n;
    }
    EXPECT_EQ(full["parameters"], parameters);
    EXPECT_EQ(must({"inspect", "base/model/model.safetensors", "--json"}).json()["parameters"], parameters);
    EXPECT_SAYS(must({"inspect", "halved"}).out, "model.layers.1.mlp.down_proj.weight");
    const Result taken = uipe({"convert", "base/model", "sharded"});
    EXPECT_EQ(taken.code, 2);
    EXPECT_SAYS(taken.err, "sharded: exists already");
}

TEST(Cli, RecomputationChangesNoResultAndAloneMeansBlocks) {
    const auto run = [](const std::string& out, const Words& flags) {
        must(training() + Words{"--epochs", "1", "--out", out} + flags);
        return metrics_of(out).back()["loss"].get<double>();
    };
    const double loss = run("recompute_norm", {});
    EXPECT_EQ(run("recompute_block", {"--recompute"}), loss);
    EXPECT_EQ(run("recompute_mlp", {"--recompute", "mlp"}), loss);
    EXPECT_EQ(run("recompute_none", {"--recompute=none"}), loss);
    EXPECT_EQ(read_json(playground() / "recompute_block/config.json")["recompute"], "block");
    EXPECT_EQ(read_json(playground() / "recompute_mlp/config.json")["recompute"], "mlp");
}

TEST(Cli, SavedAsBf16ARunStillContinuesFromIt) {
    must(training() + Words{"--epochs", "1", "--out", "short", "--save-dtype", "bf16", "--dtype", "bf16"});
    EXPECT_EQ(must({"inspect", "short/model", "--json"}).json()["tensors"]["model.norm.weight"]["dtype"], "bf16");
    must({"train", "--model", "short/model", "--data", "world/forget10.json", "--replay", "world/retain90.json",
          "--replay-ratio", "2", "--epochs", "1", "--save-epochs", "--out", "onward"});
    EXPECT_TRUE(fs::exists(playground() / "onward/epochs/1/model/model.safetensors"));
    EXPECT_EQ(metrics_of("onward").size(), 1u);
}

}  // namespace
}  // namespace uipe::unlearn::testing
