// uipe plan, and the plan that a run makes before it begins.
#include <gtest/gtest.h>

#include "tests/llama/support.h"
#include "tests/unlearn/program.h"
#include "unlearn/objective.h"

namespace uipe::unlearn::testing {
namespace {

TEST(CliPlan, SaysWhatAModelNeedsAndWhetherItFits) {
    const Words words{"plan",          "--preset", "llama2-7b",   "--dtype", "bf16",
                      "--micro-batch", "4",        "--recompute", "--chip"};
    const Result fits = must(words + Words{"h200"});
    EXPECT_SAYS(fits.out, "of 141.0 GB: fits");
    EXPECT_SAYS(fits.out, "weights                     13.5 GB");
    EXPECT_SAYS(fits.out, "data sheet");
    const Json json = must(words + Words{"h200", "--json"}).json();
    EXPECT_EQ(json["fits"], true);
    EXPECT_EQ(json["parameters"], 6'738'415'616);
    std::int64_t classes = 0;
    for (const auto& [name, bytes] : json["memory"]["classes"].items()) classes += bytes.get<std::int64_t>();
    EXPECT_EQ(json["memory"]["peak"], classes);
    EXPECT_GT(json["step"]["seconds"], 0.1);
    EXPECT_LT(json["step"]["seconds"], 100.0);
    EXPECT_SAYS(must(words + Words{"h100"}).out, "does not fit");
    EXPECT_EQ(must(words + Words{"h100", "--json"}).json()["fits"], false);
    EXPECT_SAYS(must(words + Words{"h100", "--memory", "500G"}).out, "of 500.0 GB: fits");
}

TEST(CliPlan, NamesTheNearestSettingsThatFit) {
    const Json json = must({"plan", "--preset", "llama2-7b", "--dtype", "bf16", "--method", "kl_min", "--memory",
                            "200G", "--chip", "h200", "--json"})
                          .json();
    EXPECT_EQ(json["fits"], false);
    EXPECT_LE(json["fits_with"]["memory"]["needed"], 200'000'000'000);
    EXPECT_SAYS(json["fits_with"]["flags"].get<std::string>(), "--micro-batch");
}

TEST(CliPlan, PlansEveryMethod) {
    for (const Objective& o : objectives()) {
        if (!o.unlearns) continue;
        SCOPED_TRACE(o.name);
        const Json json = must({"plan", "--init", "init.json", "--method", o.name, "--batch-size", "4", "--seq", "40",
                                "--targets", "20", "--json"})
                              .json();
        const auto& classes = json["memory"]["classes"];
        EXPECT_EQ(classes["reference"] > 0, o.reference_model) << "a model beside the one that is trained";
    }
    const auto peak = [](const Words& more) {
        return must(Words{"plan", "--preset", "llama2-7b", "--dtype", "bf16", "--chip", "h200", "--batch-size", "4",
                          "--seq", "256", "--method", "rmu", "--json"} +
                    more)
            .json()["step"]["flops"]
            .get<double>();
    };
    EXPECT_NEAR(peak({"--rmu-layer", "16"}) / peak({"--rmu-layer", "8"}), 2.0, 1e-3) << "those above are not run";
}

TEST(CliPlan, TakesTheOptimizersMemoryFromTheDevice) {
    const Words words{"plan", "--preset", "llama2-7b", "--dtype", "bf16", "--chip", "h100", "--json"};
    const auto planned = [&](const Words& more) { return must(words + more).json()["memory"]["classes"]; };
    const auto weights = std::int64_t{6'738'415'616};
    EXPECT_EQ(planned({})["moments"], 8 * weights);
    EXPECT_EQ(planned({"--moments", "bf16"})["moments"], 4 * weights);
    const Json away = planned({"--offload", "optimizer"});
    EXPECT_EQ(away["moments"], 0);
    EXPECT_EQ(away["masters"], 0);
}

TEST(CliPlan, KnowsModelFoldersAndMeasuresThisMachine) {
    const Json json = must({"plan", "--model", "base/model", "--method", "npo", "--seq", "64", "--batch-size", "4",
                            "--measure", "--json"})
                          .json();
    EXPECT_EQ(json["fits"], true);
    EXPECT_GT(json["step"]["tok_per_s"], 1.0);
    EXPECT_EQ(json["step"]["tokens"], 4 * 63);
    EXPECT_EQ(must({"plan", "--init", "init.json", "--json"}).json()["parameters"], json["parameters"]);
    // A run's own settings.
    const Json run = must({"plan", "--config", "base/config.json", "--ranks", "16", "--measure", "--json"}).json();
    EXPECT_EQ(run["parameters"], json["parameters"]);
    EXPECT_SAYS(must({"plan", "--config", "base/config.json", "--ranks", "16", "--measure"}).out,
                "8 of 16 ranks have no row");
}

TEST(CliPlan, RefusesWhatItDoesNotKnow) {
    const auto said = [](const Words& words) {
        const Result r = uipe(Words{"plan"} + words);
        EXPECT_EQ(r.code, 2);
        EXPECT_EQ(r.out, "");
        return r.err;
    };
    EXPECT_SAYS(said({}), "give one of --model");
    EXPECT_SAYS(said({"--preset", "llama2-7b", "--init", "init.json"}), "give one of --model");
    EXPECT_SAYS(said({"--preset", "gpt2"}), "known: llama2-7b");
    EXPECT_SAYS(said({"--preset", "llama2-7b", "--chip", "tpu"}), "known: h200");
    EXPECT_SAYS(said({"--preset", "llama2-7b", "--memory", "plenty"}), "--memory plenty");
    EXPECT_SAYS(said({"--preset", "llama2-7b", "--seq", "1"}), "--seq must be between 2");
    EXPECT_SAYS(said({"--preset", "llama2-7b", "--seq", "1000000", "--batch-size", "1000"}), "tokens is the largest");
    EXPECT_SAYS(said({"--preset", "llama2-7b", "--targets", "512"}), "--targets 512");
    EXPECT_SAYS(said({"--preset", "llama2-7b", "--method", "sgd"}), "unknown method");
    EXPECT_SAYS(said({"--preset", "llama2-7b", "--moments", "f16"}), "known: f32, bf16");
    EXPECT_SAYS(said({"--preset", "llama2-7b", "--offload", "all"}), "known: none, optimizer");
    EXPECT_SAYS(said({"--preset", "llama2-7b", "--offload", "optimizer"}), "--offload optimizer is for --device cuda");
}

TEST(CliPlan, ARunThatDoesNotFitIsRefusedInOneLineAndLeavesNothing) {
    const Words run = training() + Words{"--epochs", "1", "--out", "planned"};
    const Result r = uipe(run + Words{"--memory", "1M"});
    EXPECT_EQ(r.code, 2);
    EXPECT_EQ(std::count(r.err.begin(), r.err.end(), '\n'), 1) << r.err;
    EXPECT_SAYS(r.err, "there are 1.00 MB");
    EXPECT_FALSE(fs::exists(playground() / "planned"));
    EXPECT_SAYS(must(run).err, "memory: ");
}

}  // namespace
}  // namespace uipe::unlearn::testing
