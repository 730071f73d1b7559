#include "unlearn/experiment/tradeoff.h"

#include "tensor/base/error.h"
#include "unlearn/experiment/alpha_page.h"
#include "unlearn/experiment/tradeoff_page.h"
#include "unlearn/progress.h"

namespace uipe::unlearn {
namespace {

/// What `of` makes of every seed's trials.
template <class F>
void for_seeds(const TradeoffOptions& options, const F& of) {
    const Cache cache(options.out / "runs", options.common);
    for (int i = 0; i < options.seeds; ++i) {
        const std::uint64_t seed = options.seed + static_cast<std::uint64_t>(i);
        say(cat("\nseed ", seed, ", ", i + 1, " of ", options.seeds));
        of(seed, Trials(options, seed, cache));
    }
}

}  // namespace

fs::path run_tradeoff(const TradeoffOptions& options) {
    std::vector<SeedCells> results;
    for_seeds(options, [&](std::uint64_t seed, const Trials& trials) {
        SeedCells& r = results.emplace_back(SeedCells{seed, {}});
        for (const std::string& split : options.splits)
            for (const std::string& method : options.methods) r.cells.push_back(trials.cell(split, method));
    });
    return write_tradeoff(results, options);
}

fs::path run_alpha(const TradeoffOptions& options) {
    std::vector<SeedLadders> results;
    for_seeds(options, [&](std::uint64_t seed, const Trials& trials) {
        SeedLadders& r = results.emplace_back(SeedLadders{seed, {}, 0});
        for (const std::string& method : options.methods)
            r.ladders[method] = trials.ladder(options.splits.front(), method);
        r.full_quality = trials.full_quality(options.splits.front(), options.methods.front());
    });
    return write_alpha(results, options);
}

}  // namespace uipe::unlearn
