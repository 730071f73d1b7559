// How far to extrapolate: the search for alpha. It knows what an alpha measures, not how.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace uipe::unlearn {

/// What one alpha gives.
struct AlphaMeasure {
    double gap = 0;      // to what is not known: above 0 while more is known, below 0 when too much is forgotten
    double utility = 0;  // what is to be kept of the model
};

struct AlphaCandidate {
    double alpha = 0;
    AlphaMeasure measured;
    bool affordable = false;  // its utility is within the budget, and both figures are finite
};

struct AlphaChoice {
    double alpha = 0;
    std::vector<AlphaCandidate> tried;  // in the order they were measured, 0 first
    double utility_floor = 0;
    std::string reason;
};

inline constexpr double least_alpha = 0.125, most_alpha = 8.0;
inline constexpr int most_alphas = 6;  // that one search measures

/// The alpha whose gap is nearest to 0 among those that keep the share 1 - `budget` of the utility at 0; of equally
/// near ones the least. The gap is taken to fall as alpha grows, and utility too, but for noise: from 1 the search
/// doubles while there is a gap and utility to spend, or halves until there is, then tries the middle of the two
/// between which it ends. 0 when there is no gap at 0. Each alpha is measured once, at most `most_alphas` in all.
/// InputError for a budget outside [0, 1]; Error when the figures at 0 are not finite.
AlphaChoice search_alpha(const std::function<AlphaMeasure(double alpha)>& measure, double budget);

}  // namespace uipe::unlearn
