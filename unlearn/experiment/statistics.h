// What several seeds say together.
#pragma once

#include <string>
#include <vector>

namespace uipe::unlearn {

/// A mean and the half width of its 95 % interval, by Student's t over independent seeds; infinite for one value.
struct Estimate {
    double mean = 0;
    double half = 0;
    std::size_t n = 0;

    double low() const { return mean - half; }
    double high() const { return mean + half; }
};
/// Values that are not finite are left out; n = 0, mean NaN, when none is left.
Estimate estimate(const std::vector<double>& values);

/// Smaller p-values count as this in means of logarithms.
inline constexpr double least_quality = 1e-30;
/// log10 of a p-value, at least that of least_quality; NaN of what is no number.
double log_quality(double p);

/// t with P(|T| <= t) = 0.95 at `freedom` degrees of freedom, 1 or more.
double student_95(std::size_t freedom);

enum class Verdict { holds, does_not_hold, not_resolved };
/// Of the claim that a difference is above 0: it holds when the interval lies above 0, does not when it lies below, and
/// is not resolved when 0 is within, as it always is for one seed.
Verdict verdict(const Estimate& difference);
/// "holds", "does not hold", "not resolved".
std::string text_of(Verdict verdict);

}  // namespace uipe::unlearn
