// What the experiment of alpha found: its data files and its page.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "unlearn/experiment/page.h"
#include "unlearn/experiment/trials.h"

namespace uipe::unlearn {

struct SeedLadders {
    std::uint64_t seed = 0;
    std::map<std::string, Points> ladders;  // by method, alpha growing
    double full_quality = 0;                // forget quality of the model before unlearning
};

/// Of log10 forget quality along a ladder: how far the last lies above the first; how far from the least to the most;
/// how far the highest between the ends lies above the higher end.
double rise(const Points& ladder);
double spread(const Points& ladder);
double bulge(const Points& ladder);

/// Writes alpha.json, alpha.csv and alpha.html into options.out; returns the page.
fs::path write_alpha(const std::vector<SeedLadders>& results, const TradeoffOptions& options);

}  // namespace uipe::unlearn
