// How well a membership-inference attack tells forget rows from held-out rows.
#pragma once

#include <vector>

namespace uipe::eval {

/// P(held-out score > forget score) + P(equal) / 2: the area under the ROC curve. 1 when every forget row looks like
/// training data. Both non-empty and free of NaN.
double attack_auc(const std::vector<double>& forget, const std::vector<double>& holdout);

}  // namespace uipe::eval
