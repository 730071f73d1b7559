// Unlearning by many methods of many forget sets, evaluated at every epoch and along UIPE's ladder: what figures 6 and
// 7 of the UIPE paper (arXiv 2503.04693) are drawn from.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "eval/log.h"
#include "unlearn/experiment/cache.h"
#include "unlearn/experiment/frontier.h"
#include "unlearn/experiment/small_world.h"

namespace uipe::unlearn {

struct TradeoffOptions {
    fs::path out = "runs/tradeoff";
    std::string command;  // as it was given, for the page
    Words common;         // behind every command: threads, device, dtype
    std::uint64_t seed = 42;
    int seeds = 1;

    fs::path model;     // that knows the forget sets; empty: one is made, with a world
    fs::path tofu;      // of `model`
    Words retain_logs;  // of `model`, one a split, in their order
    int width = 96, layers = 4, pretraining_epochs = 5, fine_epochs = 18;  // of what is made

    Words splits{"forget01", "forget05", "forget10"};
    Words methods{"ga", "grad_diff", "kl_min", "npo"};
    double beta = 0;  // of NPO; 0: the method's own, or 1 in the world made, where TOFU's makes NPO the curve of GA
    int epochs = 6;   // among which UIPE's is chosen; the controls go on as long again
    double lr = 3e-4;
    int batch_size = 0;  // 0: a quarter of the forget set, so that all sets take as many steps
    std::vector<double> alphas{0.25, 0.5, 1, 2, 4};
    int eval_rows = 40;  // of each utility set
    int eval_tokens = 40;
    std::string form = default_form;  // prompt of a QA row
};

/// The models and runs of one seed, each computed unless it has been.
class Trials {
public:
    Trials(const TradeoffOptions& options, std::uint64_t seed, const Cache& cache);

    /// A method on a forget set: its runs, UIPE from the epochs chosen by all and by half of the rows, and UIPE from
    /// the end of a run of decaying rate.
    Cell cell(const std::string& split, const std::string& method) const;

    /// UIPE alone, from the epoch chosen by all rows.
    Points ladder(const std::string& split, const std::string& method) const;

    /// The forget quality of the model before unlearning, by a run of the method.
    double full_quality(const std::string& split, const std::string& method) const;

private:
    /// A model, and what it is to be when it has forgotten.
    struct Subject {
        fs::path model, tofu, retain_log;
        eval::EvalLog retain;
        std::size_t rows = 0;
    };
    void make_subjects();
    fs::path fine_tuned(const std::string& name, const fs::path& data, const fs::path& base, const Words& replay) const;
    Words evaluation(const std::string& split, const fs::path& tofu) const;
    Words judged(const std::string& split) const;  // the same against the retain log
    fs::path run(const std::string& split, const std::string& method, const std::string& schedule, int epochs) const;
    Points epochs_of(const std::string& split, const fs::path& run, int epochs) const;
    int base_epoch(const Points& points, Rows rows) const;
    Points ladder(const std::string& split, const std::string& method, const fs::path& run, int epoch) const;
    TradeoffPoint point(const std::string& split, const fs::path& evaluation, int epoch, double alpha) const;

    const TradeoffOptions& o_;
    std::uint64_t seed_;
    const Cache& cache_;
    std::map<std::string, Subject> subjects_;  // by split
};

}  // namespace uipe::unlearn
