#include "unlearn/experiment/trials.h"

#include <algorithm>

#include "eval/evaluate.h"
#include "tensor/base/error.h"
#include "unlearn/experiment/halves.h"
#include "unlearn/experiment/results.h"
#include "unlearn/experiment/small_world.h"
#include "unlearn/objective.h"
#include "unlearn/session.h"

namespace uipe::unlearn {
namespace {

Words operator+(Words a, const Words& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
}

/// The median of a log's truth ratios over its forget rows, which tells too much forgetting from too little.
double median_truth_ratio(const fs::path& evaluation) { return metric(evaluation, "forget_truth_ratio_median"); }

/// Removes the models of a run's epochs but those that UIPE starts from, which are all that is read again: the choice
/// depends on the run's own logs and on half of its length, so a repeated or extended experiment makes the same.
void drop_models(const fs::path& run, const std::array<int, 3>& kept, int epochs) {
    for (int epoch = 1; epoch <= epochs; ++epoch)
        if (std::find(kept.begin(), kept.end(), epoch) == kept.end())
            fs::remove_all(product(run / "epochs" / std::to_string(epoch)));
}

}  // namespace

Trials::Trials(const TradeoffOptions& options, std::uint64_t seed, const Cache& cache)
    : o_(options), seed_(seed), cache_(cache) {
    if (o_.model.empty())
        make_subjects();
    else
        for (std::size_t i = 0; i < o_.splits.size(); ++i)
            subjects_[o_.splits[i]] = {o_.model, o_.tofu, o_.retain_logs[i], {}, 0};
    for (auto& [split, s] : subjects_) {
        s.retain = eval::read_log(s.retain_log);
        const auto forget = eval::read_tofu(s.tofu, split, 1).forget;
        s.rows = forget.size();
        require_same_questions(s.retain, forget, s.retain.format, cat(split, " in ", s.tofu.string()));
    }
}

/// The world's models: one that learned all of it, and for each split one that learned all but that.
void Trials::make_subjects() {
    const SmallWorld made = small_world(
        {.width = o_.width, .layers = o_.layers, .epochs = o_.pretraining_epochs, .seed = seed_, .form = o_.form},
        cache_);
    const fs::path full = fine_tuned("full", made.world / "full.json", made.model, made.pretraining);
    for (const std::string& split : o_.splits) {
        const int percent = std::stoi(split.substr(6));
        const std::string rest = "retain" + std::to_string(100 - percent);
        const fs::path retain = fine_tuned(rest, made.world / (rest + ".json"), made.model, made.pretraining);
        const fs::path log =
            cache_.run(rest + "-log", Words{"eval", "--model", retain.string()} + evaluation(split, made.world));
        subjects_[split] = {full, made.world, log / "TOFU_EVAL.json", {}, 0};
    }
}

fs::path Trials::fine_tuned(const std::string& name, const fs::path& data, const fs::path& base,
                            const Words& replay) const {
    const Words words{"train",
                      "--model",
                      base.string(),
                      "--data",
                      data.string(),
                      "--replay-ratio",
                      "1",
                      "--epochs",
                      std::to_string(o_.fine_epochs),
                      "--batch-size",
                      "32",
                      "--lr",
                      "1e-3",
                      "--warmup-epochs",
                      "1",
                      "--adam-beta2",
                      "0.98",
                      "--seed",
                      std::to_string(seed_),
                      "--replay"};
    return product(cache_.run(name, words + replay + form_words(o_.form)));
}

Words Trials::evaluation(const std::string& split, const fs::path& tofu) const {
    return Words{"--tofu",        tofu.string(),
                 "--split",       split,
                 "--eval-rows",   std::to_string(o_.eval_rows),
                 "--eval-tokens", std::to_string(o_.eval_tokens)} +
           form_words(o_.form);
}

Words Trials::judged(const std::string& split) const {
    const Subject& s = subjects_.at(split);
    return evaluation(split, s.tofu) + Words{"--retain-log", s.retain_log.string()};
}

fs::path Trials::run(const std::string& split, const std::string& method, const std::string& schedule,
                     int epochs) const {
    const Subject& s = subjects_.at(split);
    const std::size_t batch = o_.batch_size > 0 ? static_cast<std::size_t>(o_.batch_size) : (s.rows + 3) / 4;
    Words words{"unlearn",
                "--model",
                s.model.string(),
                "--method",
                method,
                "--epochs",
                std::to_string(epochs),
                "--batch-size",
                std::to_string(batch),
                "--lr",
                number_text(o_.lr),
                "--schedule",
                schedule,
                "--warmup-epochs",
                "1",
                "--seed",
                std::to_string(seed_)};
    const double beta = o_.beta > 0 ? o_.beta : o_.model.empty() ? 1 : 0;
    if (method.starts_with("npo") && beta > 0) words = words + Words{"--beta", number_text(beta)};
    if (schedule != "constant") words.emplace_back("--save-last");  // nothing starts from the epochs before
    return cache_.run(cat(split, "-", method, "-", schedule), words + judged(split));
}

TradeoffPoint Trials::point(const std::string& split, const fs::path& evaluation, int epoch, double alpha) const {
    TradeoffPoint p{epoch, alpha, metric(evaluation, "model_utility"), {}, median_truth_ratio(evaluation)};
    const eval::EvalLog log = eval::read_log(evaluation);
    for (const Rows rows : every_rows)
        p.quality[static_cast<std::size_t>(rows)] = forget_quality(log, subjects_.at(split).retain, rows);
    return p;
}

Points Trials::epochs_of(const std::string& split, const fs::path& run, int epochs) const {
    Points out;
    for (int n = 0; n <= epochs; ++n) out.push_back(point(split, run / "epochs" / std::to_string(n), n, 0));
    return out;
}

int Trials::base_epoch(const Points& points, Rows rows) const {
    const Points early{points.begin() + 1, points.begin() + 1 + o_.epochs};
    return chosen(early, utility_share * points.front().utility, rows).epoch;
}

Points Trials::ladder(const std::string& split, const std::string& method, const fs::path& run, int epoch) const {
    Points out;
    for (const double alpha : o_.alphas) {
        const Words words{"extrapolate",
                          "--base",
                          subjects_.at(split).model.string(),
                          "--unlearned",
                          product(run / "epochs" / std::to_string(epoch)).string(),
                          "--epoch",
                          std::to_string(epoch),
                          "--no-models",
                          "--alpha",
                          number_text(alpha)};
        const fs::path evaluation =
            cache_.run(cat(split, "-", method, "-alpha", number_text(alpha)), words + judged(split));
        out.push_back(point(split, evaluation, epoch, alpha));
    }
    return out;
}

Cell Trials::cell(const std::string& split, const std::string& method) const {
    Cell out;
    const int twice = 2 * o_.epochs;
    const fs::path constant = run(split, method, "constant", twice);
    const fs::path ended = run(split, method, "linear", o_.epochs);
    out.constant = epochs_of(split, constant, twice);
    out.decayed = epochs_of(split, run(split, method, "linear", twice), twice);
    out.ended = epochs_of(split, ended, o_.epochs);
    for (const Rows rows : every_rows) {
        const auto i = static_cast<std::size_t>(rows);
        out.base[i] = base_epoch(out.constant, rows);
        out.uipe[i] = ladder(split, method, constant, out.base[i]);
    }
    out.uipe_ended = ladder(split, method, ended, o_.epochs);
    drop_models(constant, out.base, twice);
    return out;
}

double Trials::full_quality(const std::string& split, const std::string& method) const {
    return point(split, run(split, method, "constant", 2 * o_.epochs) / "epochs" / "0", 0, 0).of(Rows::all);
}

Points Trials::ladder(const std::string& split, const std::string& method) const {
    const int twice = 2 * o_.epochs;
    const fs::path constant = run(split, method, "constant", twice);
    const Points points = epochs_of(split, constant, twice);
    const int epoch = base_epoch(points, Rows::all);
    Points out = ladder(split, method, constant, epoch);
    drop_models(constant, {epoch, base_epoch(points, Rows::even), base_epoch(points, Rows::odd)}, twice);
    return out;
}

}  // namespace uipe::unlearn
