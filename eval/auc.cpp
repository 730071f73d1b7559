#include "eval/auc.h"

#include <algorithm>

#include "tensor/base/error.h"

namespace uipe::eval {

double attack_auc(const std::vector<double>& forget, const std::vector<double>& holdout) {
    require(!forget.empty() && !holdout.empty(), "attack_auc: ", forget.size(), " forget and ", holdout.size(),
            " held-out scores, both need at least one");
    auto sorted = forget;
    std::sort(sorted.begin(), sorted.end());
    double twice_wins = 0;
    for (const double score : holdout) {
        const auto [first, last] = std::equal_range(sorted.begin(), sorted.end(), score);
        twice_wins += static_cast<double>((first - sorted.begin()) + (last - sorted.begin()));
    }
    return twice_wins / 2 / static_cast<double>(forget.size()) / static_cast<double>(holdout.size());
}

}  // namespace uipe::eval
