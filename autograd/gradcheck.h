// Gradients against central differences, in f64.
#pragma once

#include <string>

#include "autograd/variable.h"

namespace uipe::autograd {

struct GradCheck {
    double worst = 0.0;  // the largest |analytic - numeric| / max(1, |analytic|, |numeric|)
    std::string place;   // where it was met: input and element, with both values
};

/// Compares the gradient of f (any shape; reduced by a fixed random weight per element) with respect to every element
/// of every leaf in `inputs` (f64) with the five-point central difference
///   (8 (f(x+h) - f(x-h)) - (f(x+2h) - f(x-2h))) / 12h,  h = 1e-3,
/// whose error is h^4 f^(5) / 30 + about 1e-13 of rounding. At most `limit` elements of an input are tried, evenly
/// spread.
GradCheck gradcheck(const std::function<Variable()>& f, const std::vector<Variable>& inputs, std::int64_t limit = 1000);

}  // namespace uipe::autograd
