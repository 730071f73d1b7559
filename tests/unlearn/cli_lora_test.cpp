// Adapters from end to end: trained, unlearned, taken up again, extrapolated, merged.
#include <gtest/gtest.h>

#include <sstream>

#include "eval/auc.h"
#include "tests/llama/support.h"
#include "tests/unlearn/program.h"

namespace uipe::unlearn::testing {
namespace {

Bytes adapter_of(const fs::path& folder) { return {read_file(playground() / folder / "adapter_model.safetensors")}; }

Words lora_training() {
    return {"train",        "--model", "base/model", "--data", "world/full.json", "--lr", "1e-2",
            "--batch-size", "8",       "--epochs",   "2"};
}

/// Largest difference between the log-probabilities that two models give the forget set.
double apart(const std::string& a, const std::string& b) {
    const auto logprobs = [](const std::string& model) {
        std::vector<double> out;
        const Result r = must({"logprobs", "--model", model, "--qa", "world/forget10.json", "--json"});
        std::istringstream lines(r.out);
        for (std::string line; std::getline(lines, line);) {
            const Json row = parse_json(line, "a row");
            for (const Json& x : row["logprobs"]) out.push_back(x);
        }
        return out;
    };
    const std::vector<double> x = logprobs(a);
    const std::vector<double> y = logprobs(b);
    EXPECT_EQ(x.size(), y.size());
    EXPECT_GT(x.size(), 0u);
    double most = 0;
    for (std::size_t i = 0; i < std::min(x.size(), y.size()); ++i) most = std::max(most, std::abs(x[i] - y[i]));
    return most;
}

TEST(Lora, TrainsAnAdapterThatNamesItsModel) {
    const Result r = must(lora_training() + Words{"--lora-rank", "3", "--lora-targets", "all", "--out", "lora"});
    EXPECT_FALSE(fs::exists(playground() / "lora/model"));
    const Json config = read_json(playground() / "lora/adapter/adapter_config.json");
    EXPECT_EQ(config["r"], 3);
    EXPECT_EQ(config["lora_alpha"], 6);
    EXPECT_EQ(fs::path(config["base_model_name_or_path"].get<std::string>()),
              fs::weakly_canonical(playground() / "base/model"));
    const auto figures = figures_of("lora");
    EXPECT_LT(figures.back()["loss"], figures.front()["loss"]);
    EXPECT_GT(apart("lora/adapter", "base/model"), 1e-2);
    EXPECT_EQ(must({"inspect", "lora/adapter", "--json"}).json()["rank"], 3);
    // Merged, it is a model like any other: f32 sums of f32 products, so the same but for rounding.
    must({"merge", "lora/adapter", "--out", "lora-merged"});
    EXPECT_LE(apart("lora/adapter", "lora-merged"), 1e-4);
    EXPECT_SAYS(uipe({"merge", "base/model", "--out", "none"}).err, "is no adapter folder");
    EXPECT_SAYS(uipe({"convert", "lora/adapter", "none"}).err, "uipe merge");
}

TEST(Lora, MicroBatchesAndResumptionsChangeNothing) {
    const Words words = lora_training() + Words{"--lora-rank", "2", "--lora-dropout", "0.2"};
    must(words + Words{"--out", "drops"});
    must(words + Words{"--out", "drops-cut", "--stop-after", "5"});
    must(words + Words{"--out", "drops-cut", "--resume"});
    EXPECT_EQ(adapter_of("drops-cut/adapter"), adapter_of("drops/adapter"));
    EXPECT_EQ(figures_of("drops-cut"), figures_of("drops"));
    must(words + Words{"--out", "drops-by-3", "--micro-batch", "3"});
    const auto whole = figures_of("drops");
    const auto cut = figures_of("drops-by-3");
    for (std::size_t i = 0; i < whole.size(); ++i)
        EXPECT_NEAR(whole[i]["loss"].get<double>(), cut[i]["loss"].get<double>(), 1e-5) << "one mask, however cut";
    must(words + Words{"--out", "drops-recomputed", "--recompute"});
    EXPECT_EQ(adapter_of("drops-recomputed/adapter"), adapter_of("drops/adapter"));
}

class LoraUnlearning : public ::testing::TestWithParam<const char*> {};

TEST_P(LoraUnlearning, KeepsTheModelAndExtrapolatesTheProduct) {
    const std::string run = cat("lora-", GetParam());
    must(Words{"unlearn", "--model", "base/model", "--method", GetParam(), "--preset", "paper-lora", "--lr", "1e-2",
               "--epochs", "2", "--warmup-epochs", "0", "--retain-log", "retain", "--out", run} +
         evaluation());
    const Json config = read_json(playground() / run / "config.json");
    EXPECT_EQ(config["batch_size"], 4) << "of the preset";
    EXPECT_EQ(config["lr"], 0.01) << "what is given wins";
    EXPECT_EQ(read_json(playground() / run / "epochs/1/adapter/adapter_config.json")["r"], 4);
    EXPECT_FALSE(fs::exists(playground() / run / "epochs/1/model"));
    const std::string epoch = read_json(playground() / run / "selection.json")["epoch"].dump();
    const Result r = must({"extrapolate", "--unlearned", run, "--alpha", "0", "1", "--json"});
    const std::string made = cat(run, "/extrapolations/epoch", epoch, "_alpha");
    EXPECT_EQ(adapter_of(made + "0/adapter"), adapter_of(cat(run, "/epochs/", epoch, "/adapter")));
    EXPECT_EQ(read_json(playground() / (made + "0") / "TOFU_EVAL.json"),
              read_json(playground() / run / "epochs" / epoch / "TOFU_EVAL.json"));
    EXPECT_GT(r.json()["update_norm_share"], 0.0);
    // The adapter's product twice over is the merged weights' difference twice over.
    must({"merge", cat(run, "/epochs/", epoch, "/adapter"), "--out", run + "-u"});
    must({"extrapolate", "--base", "base/model", "--unlearned", run + "-u", "--alpha", "1", "--out", run + "-y"});
    EXPECT_LE(apart(made + "1/adapter", run + "-y"), 1e-4);
}

INSTANTIATE_TEST_SUITE_P(Methods, LoraUnlearning, ::testing::Values("ga", "grad_diff", "kl_min", "npo", "dpo", "rmu"),
                         [](const auto& method) { return std::string(method.param); });

/// The mean loss of every row of a set of the world.
std::vector<double> losses(const std::string& model, const std::string& set) {
    std::istringstream lines(must({"logprobs", "--model", model, "--qa", "world/" + set + ".json", "--json"}).out);
    std::vector<double> out;
    for (std::string line; std::getline(lines, line);) out.push_back(parse_json(line, "a row")["avg_loss"]);
    return out;
}

TEST(Lora, AnAdapterIsUnlearnedAndExtrapolatedFromWhereItStood) {
    must(lora_training() + Words{"--lora-rank", "3", "--lora-targets", "q_proj,v_proj", "--out", "stood"});
    must(Words{"unlearn", "--model", "stood/adapter", "--method", "grad_diff", "--lr", "1e-2", "--epochs", "1",
               "--warmup-epochs", "0", "--no-eval", "--out", "stood-u"} +
         evaluation());
    const Words between{"extrapolate", "--base", "stood/adapter", "--unlearned", "stood-u/epochs/1/adapter"};
    must(between + Words{"--alpha", "1", "--out", "stood-y"});
    EXPECT_EQ(must({"inspect", "stood-y", "--json"}).json()["rank"], 6);
    must(between + Words{"--alpha", "1", "--merge", "--out", "stood-m"});
    EXPECT_LE(apart("stood-y", "stood-m"), 1e-4);
    must(between + Words{"--alpha", "-1", "--out", "stood-0"});
    EXPECT_EQ(adapter_of("stood-0"), adapter_of("stood/adapter"));
    // An alpha that is chosen: the held-out rows are those of the adapter that it stood at.
    const Json r =
        must(between + Words{"--alpha", "auto", "--alpha-rule", "attack-before", "--out", "stood-a", "--json"} +
             evaluation())
            .json();
    const Json first = r["chosen"]["candidates"][0];
    EXPECT_DOUBLE_EQ(
        first["gap"].get<double>(),
        eval::attack_auc(losses("stood-u/epochs/1/adapter", "forget10"), losses("stood/adapter", "holdout10")) - 0.5);
    const std::string alpha = r["chosen"]["alpha"].dump();
    must(between + Words{"--alpha", alpha, "--out", "stood-given"});
    EXPECT_EQ(adapter_of("stood-a"), adapter_of("stood-given"));
}

TEST(Lora, APresetGivenBesideAFileWins) {
    must(lora_training() + Words{"--out", "plain"});
    must({"train", "--config", "plain/config.json", "--preset", "paper-lora", "--lr", "1e-2", "--out", "preset"});
    const Json config = read_json(playground() / "preset/config.json");
    EXPECT_EQ(config["lora_rank"], 4);
    EXPECT_EQ(config["lr"], 0.01);
    must({"train", "--config", "preset/config.json", "--lora-rank", "2", "--out", "preset-2"});
    EXPECT_EQ(read_json(playground() / "preset-2/adapter/adapter_config.json")["r"], 2);
}

TEST(Lora, AnAdapterFollowsItsModelToAnotherPlace) {
    fs::copy(playground() / "base/model", playground() / "here");
    must({"train", "--model", "here", "--data", "world/full.json", "--lr", "1e-2", "--batch-size", "8", "--epochs", "1",
          "--warmup-epochs", "0", "--lora-rank", "2", "--out", "moved"});
    fs::rename(playground() / "here", playground() / "there");
    EXPECT_SAYS(uipe({"logprobs", "--model", "moved/adapter", "--qa", "world/forget10.json"}).err, "give --base DIR");
    must({"logprobs", "--model", "moved/adapter", "--base", "there", "--qa", "world/forget10.json"});
    must({"extrapolate", "--base", "there", "--unlearned", "moved/adapter", "--alpha", "1", "--out", "moved-y"});
    must({"inspect", "moved-y"});  // it names the model that was there
    // So large a factor has no finite sum.
    const fs::path file = playground() / "moved-y/adapter_config.json";
    Json config = read_json(file);
    config["lora_alpha"] = 1e308;
    write_file(file, config.dump());
    const Result r = uipe({"merge", "moved-y", "--out", "moved-m"});
    EXPECT_EQ(r.code, 2);
    EXPECT_SAYS(r.err, "moved-y");
    EXPECT_FALSE(fs::exists(playground() / "moved-m"));
}

TEST(Lora, WhatMakesNoSenseIsSaid) {
    const auto said = [](const Words& words) {
        const Result r = uipe(lora_training() + words + Words{"--out", "nonsense"});
        EXPECT_EQ(r.code, 2);
        EXPECT_EQ(std::count(r.err.begin(), r.err.end(), '\n'), 1) << r.err;
        return r.err;
    };
    EXPECT_SAYS(said({"--lora-alpha", "3"}), "give its --lora-rank");
    EXPECT_SAYS(said({"--lora-rank", "2", "--lora-targets", "q_proj,lm_head"}), "lm_head");
    EXPECT_SAYS(said({"--lora-rank", "-1"}), "--lora-rank");
    EXPECT_SAYS(said({"--lora-rank", "2", "--lora-dropout", "1"}), "dropout");
    EXPECT_SAYS(said({"--preset", "paper"}), "known: paper-lora");
    EXPECT_FALSE(fs::exists(playground() / "nonsense"));
    EXPECT_SAYS(uipe(training() + Words{"--lora-rank", "2", "--out", "nonsense"}).err, "--lora-rank needs --model");
}

}  // namespace
}  // namespace uipe::unlearn::testing
