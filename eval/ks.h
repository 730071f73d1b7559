// The two-sample, two-sided Kolmogorov-Smirnov test behind forget quality.
#pragma once

#include <cstdint>
#include <vector>

namespace uipe::eval {

struct Ks {
    double D = 0;  // the largest distance of the two empirical distributions
    double p = 1;  // the chance of a distance at least as large if both samples come from one distribution
};

/// Tests two samples, of any order. Infinite values are ordinary, the largest or smallest of all.
/// InputError when a sample is empty or holds a NaN.
Ks ks_test(std::vector<double> a, std::vector<double> b);

/// P(lcm(n1, n2)·D >= h) for continuous distributions: exact while max(n1, n2) <= 10000 (relative error about
/// (n1 + n2) epsilon; values below 1e-308 become 0), asymptotic above. Both sizes at least 1.
/// Source: J. L. Hodges, "The significance probability of the Smirnov two-sample test" (1958).
double ks_p_value(std::int64_t n1, std::int64_t n2, std::int64_t h);

}  // namespace uipe::eval
