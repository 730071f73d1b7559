#include "unlearn/selection.h"

#include <cstdio>

#include "tensor/base/error.h"

namespace uipe::unlearn {

Selection select(const std::vector<Candidate>& candidates, double floor) {
    require(!candidates.empty(), "nothing to select from");
    Selection best;
    bool found = false;
    for (std::size_t i = 0; i < candidates.size(); ++i) {
        if (candidates[i].model_utility < floor) continue;
        if (found && candidates[i].forget_quality <= candidates[best.index].forget_quality) continue;
        best.index = i;
        found = true;
    }
    char bound[32];
    std::snprintf(bound, sizeof bound, "%.3f", floor);
    if (found) {
        best.reason = cat("best forget quality with model utility at least ", bound);
        return best;
    }
    for (std::size_t i = 1; i < candidates.size(); ++i)
        if (candidates[i].model_utility > candidates[best.index].model_utility) best.index = i;
    best.reason = cat("no candidate keeps a model utility of ", bound, "; this one keeps most");
    return best;
}

}  // namespace uipe::unlearn
