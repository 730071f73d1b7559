#include "unlearn/experiment/statistics.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "tensor/base/error.h"

namespace uipe::unlearn {

double student_95(std::size_t freedom) {
    require(freedom > 0, "an interval needs two values");
    static constexpr std::array<double, 30> table{
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
        2.120,  2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042};
    if (freedom <= table.size()) return table[freedom - 1];
    // Three terms of Cornish and Fisher's expansion about the normal quantile.
    constexpr double z = 1.959964;
    constexpr double z2 = z * z;
    const auto n = static_cast<double>(freedom);
    return z + z * (z2 + 1.0) / (4.0 * n) + z * (5.0 * z2 * z2 + 16.0 * z2 + 3.0) / (96.0 * n * n);
}

double log_quality(double p) { return std::isfinite(p) ? std::log10(std::max(p, least_quality)) : std::nan(""); }

Estimate estimate(const std::vector<double>& values) {
    Estimate out;
    double sum = 0;
    for (const double value : values)
        if (std::isfinite(value)) sum += value, ++out.n;
    if (out.n == 0) return {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(), 0};
    const auto n = static_cast<double>(out.n);
    out.mean = sum / n;
    out.half = std::numeric_limits<double>::infinity();
    if (out.n == 1) return out;
    double squares = 0;
    for (const double value : values)
        if (std::isfinite(value)) squares += (value - out.mean) * (value - out.mean);
    out.half = student_95(out.n - 1) * std::sqrt(squares / (n - 1.0) / n);
    return out;
}

Verdict verdict(const Estimate& difference) {
    if (difference.low() > 0) return Verdict::holds;
    if (difference.high() < 0) return Verdict::does_not_hold;
    return Verdict::not_resolved;
}

std::string text_of(Verdict verdict) {
    switch (verdict) {
        case Verdict::holds:
            return "holds";
        case Verdict::does_not_hold:
            return "does not hold";
        default:
            return "not resolved";
    }
}

}  // namespace uipe::unlearn
