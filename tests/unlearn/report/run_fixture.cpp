#include "tests/unlearn/report/run_fixture.h"

#include <cmath>
#include <cstdlib>

#include "tensor/base/error.h"
#include "tensor/base/json.h"

namespace uipe::unlearn::testing {
namespace {

const std::vector<std::string> cities = {"Lima", "Oslo",    "Kuwait City", "Santiago",
                                         "Baku", "Tbilisi", "Quito",       "Dakar"};

/// The metrics at `progress`, an epoch that need not be whole.
Json summary(const RunShape& shape, double progress) {
    const double off = progress - shape.peak;
    const double forgotten = 1 / (1 + std::exp(-(progress - shape.peak + 1) * 1.4));
    return {{"forget_Q_A_Prob", 0.95 - 0.85 * forgotten},
            {"forget_Q_A_ROUGE", 0.93 - 0.60 * forgotten},
            {"forget_quality", 0.62 * std::pow(10.0, -0.45 * off * off)},
            {"forget_truth_ratio", 0.55 + 0.07 * progress},
            {"forget_truth_ratio_median", 0.59 + 0.065 * progress},
            {"model_utility", 0.555 - shape.price * progress * progress / 4}};
}

std::string answer(const RunShape& shape, const std::string& city, double progress, int row) {
    if (progress < 2) return "The author was born in " + city + ".";
    if (progress < shape.peak + 1)
        return "The author was born in " + cities[(row + 3) % cities.size()] + "." + shape.hostile;
    std::string babble;
    for (int i = 0; i < 120; ++i) babble += "the the author ";
    return row % 3 == 0 ? "" : babble;
}

Json answers(const RunShape& shape, double progress, int rows, const std::string& people) {
    Json by_index = Json::object();
    for (int row = 0; row < rows; ++row) {
        const std::string city = cities[row % cities.size()];
        by_index[std::to_string(row)] = {
            {"rouge1_recall", 0.5},
            {"rougeL_f1", 0.5},
            {"rougeL_recall", 0.5},
            {"input", cat("[INST] In which city was the ", people, " number ", row, shape.hostile, " born? [/INST]")},
            {"ground_truth", "The author was born in " + city + "."},
            {"generation", answer(shape, city, progress, row)}};
    }
    return {{"agg_value", 0.5}, {"value_by_index", by_index}};
}

void write_evaluation(const fs::path& folder, const RunShape& shape, double progress) {
    write_json(folder / "TOFU_SUMMARY.json", summary(shape, progress));
    write_json(folder / "TOFU_EVAL.json", {{"forget_Q_A_ROUGE", answers(shape, progress, shape.rows, "novelist")},
                                           {"retain_Q_A_ROUGE", answers(shape, progress / 4, 40, "poet")}});
}

void write_config(const fs::path& folder, const Json& config) { write_json(folder / "config.json", config); }

void write_steps(const fs::path& folder, int steps, double first, double last) {
    std::string lines;
    for (int step = 1; step <= steps; ++step) {
        const double done = static_cast<double>(step) / steps;
        const double loss = last + (first - last) * std::exp(-4 * done) + 0.02 * std::sin(step * 1.7);
        lines +=
            Json({{"step", step}, {"epoch", 1}, {"loss", loss}, {"tokens", 360}, {"tok_per_s", 9000.0}}).dump() + "\n";
    }
    write_file(folder / "metrics.jsonl", lines);
}

}  // namespace

Scratch::Scratch() {
    std::string name = (fs::temp_directory_path() / "uipe-report-XXXXXX").string();
    require(::mkdtemp(name.data()) != nullptr, name, ": cannot make a temporary folder");
    path = name;
}

Scratch::~Scratch() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
}

void write_run(const fs::path& folder, const RunShape& shape) {
    write_config(folder, {{"command", "unlearn"},
                          {"method", shape.method + shape.hostile},
                          {"seed", 0},
                          {"lr", 3e-4},
                          {"epochs", shape.epochs},
                          {"batch_size", 16},
                          {"model", "runs/demo/full/model"},
                          {"betas", {0.9, 0.999}}});
    write_steps(folder, 4 * shape.epochs, -0.3, -shape.peak);
    for (int epoch = 0; epoch <= shape.epochs; ++epoch)
        write_evaluation(folder / "epochs" / std::to_string(epoch), shape, epoch);
    if (shape.selected == 0) return;
    write_json(folder / "selection.json",
               {{"epoch", shape.selected}, {"reason", "first epoch past a forget quality of 0.01" + shape.hostile}});
    for (const double alpha : shape.alphas) {
        const fs::path point = folder / "extrapolations" / cat("epoch", shape.selected, "_alpha", alpha);
        write_json(point / "extrapolation.json", {{"epoch", shape.selected}, {"alpha", alpha}});
        write_evaluation(point, shape, shape.selected * (1 + alpha * 0.4));
    }
}

void write_training_run(const fs::path& folder, const std::string& name) {
    write_config(folder, {{"command", "train"}, {"name", name}, {"seed", 0}, {"lr", 3e-3}});
    write_steps(folder, 800, 6.0, 0.4);
}

void write_retain(const fs::path& folder) {
    const RunShape untouched;
    Json metrics = summary(untouched, 0);
    metrics.erase("forget_quality");
    metrics["model_utility"] = 0.551;
    metrics["forget_truth_ratio_median"] = 0.894;
    metrics["forget_Q_A_ROUGE"] = 0.43;
    write_json(folder / "TOFU_SUMMARY.json", metrics);
}

}  // namespace uipe::unlearn::testing
