// What the experiment of the trade-off found: its data files and its page.
#pragma once

#include <string>
#include <vector>

#include "unlearn/experiment/page.h"
#include "unlearn/experiment/trials.h"

namespace uipe::unlearn {

struct SeedCells {
    std::uint64_t seed = 0;
    std::vector<Cell> cells;  // methods of the first split, of the second, …
};

/// That UIPE is better than each rival, each a value a seed.
std::vector<Claim> claims_of(const std::vector<SeedCells>& results);

/// Writes tradeoff.json, tradeoff.csv and tradeoff.html into options.out; returns the page.
fs::path write_tradeoff(const std::vector<SeedCells>& results, const TradeoffOptions& options);

}  // namespace uipe::unlearn
