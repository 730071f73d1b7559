// Which epoch of an unlearning run to take.
#pragma once

#include <string>
#include <vector>

namespace uipe::unlearn {

struct Candidate {
    std::string name;  // an epoch, or an extrapolation
    double forget_quality = 0;
    double model_utility = 0;
};

struct Selection {
    std::size_t index = 0;
    std::string reason;
};

/// The best forget quality among candidates whose model utility is at least `floor` (the UIPE paper, section 5.2: the
/// best forgetting, unless its utility is poor); the best utility when none reaches it. Earlier candidates win ties.
/// Error when there is no candidate.
Selection select(const std::vector<Candidate>& candidates, double floor);

}  // namespace uipe::unlearn
