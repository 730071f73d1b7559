#include "eval/ks.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "tensor/base/error.h"

namespace uipe::eval {
namespace {

constexpr std::int64_t largest_exact = 10000;

/// n1 = n2 = n. Reflection gives P = 2(Q_1 - Q_2 + Q_3 - …) with Q_k = C(2n, n - kh) / C(2n, n); evaluated from the
/// inside out, each ratio as a product of factors of at most 1, so that nothing overflows.
double equal_sizes(std::int64_t n, std::int64_t h) {
    double p = 0;
    for (std::int64_t k = n / h - 1; k >= 0; --k) {
        double ratio = 1;  // Q_{k+1} / Q_k
        for (std::int64_t j = k * h; j < (k + 1) * h; ++j)
            ratio *= static_cast<double>(n - j) / static_cast<double>(n + j + 1);
        p = ratio * (1 - p);
    }
    return 2 * p;
}

/// n1 != n2. A random lattice path from (0, 0) to (m, n) stands for the merged order of the samples, and h is reached
/// where |x n - y m| / gcd >= h. touched[y] is the chance that a path ending in (x, y) has reached h on its way: 1
/// where (x, y) itself does, else the mean over its last step, which came from (x-1, y) with chance x / (x + y). Every
/// term is positive, so a tiny result is as exact as a large one.
double unequal_sizes(std::int64_t m, std::int64_t n, std::int64_t h) {
    const std::int64_t g = std::gcd(m, n), per_x = n / g, per_y = m / g;
    std::vector<double> touched(static_cast<std::size_t>(n) + 1, 1.0);
    std::int64_t low = 0;  // all y below are outside, for this x and every later one
    for (std::int64_t x = 0; x <= m; ++x) {
        while (low <= n && low * per_y <= x * per_x - h) touched[static_cast<std::size_t>(low++)] = 1;
        const std::int64_t high = std::min(n, (x * per_x + h - 1) / per_y);
        for (std::int64_t y = low; y <= high; ++y) {
            const auto i = static_cast<std::size_t>(y);
            const double from_left = x > 0 ? static_cast<double>(x) * touched[i] : 0;
            const double from_below = y > 0 ? static_cast<double>(y) * touched[i - 1] : 0;
            touched[i] = x + y > 0 ? (from_left + from_below) / static_cast<double>(x + y) : 0;
        }
    }
    return touched.back();
}

/// Kolmogorov's limiting distribution, P(sup |Brownian bridge| >= x).
double kolmogorov(double x) {
    if (x <= 0) return 1;
    double sum = 0;
    if (x < 1) {  // the theta-function dual converges fast where the alternating series does not
        for (int k = 1; k <= 9; k += 2) sum += std::exp(-k * k * std::numbers::pi * std::numbers::pi / (8 * x * x));
        return 1 - std::sqrt(2 * std::numbers::pi) / x * sum;
    }
    for (int k = 1; k <= 9; ++k) sum += (k % 2 ? 2 : -2) * std::exp(-2.0 * k * k * x * x);
    return sum;
}

}  // namespace

double ks_p_value(std::int64_t n1, std::int64_t n2, std::int64_t h) {
    require(n1 >= 1 && n2 >= 1 && h >= 0, "ks_p_value(", n1, ", ", n2, ", ", h, "): sizes below 1 or h below 0");
    if (h == 0) return 1;
    if (std::max(n1, n2) <= largest_exact) {
        const double p = n1 == n2 ? equal_sizes(n1, h) : unequal_sizes(std::max(n1, n2), std::min(n1, n2), h);
        return std::clamp(p, 0.0, 1.0);
    }
    // scipy takes Kolmogorov's distribution for finite n here; at these sizes its limit is within 0.1 % of the exact
    // value down to p = 0.001, and less exact in the far tail.
    const double a = static_cast<double>(n1), b = static_cast<double>(n2);
    const double d = static_cast<double>(h) / static_cast<double>(std::lcm(n1, n2));
    return std::clamp(kolmogorov(std::sqrt(std::round(a * b / (a + b))) * d), 0.0, 1.0);
}

Ks ks_test(std::vector<double> a, std::vector<double> b) {
    for (const auto* sample : {&a, &b}) {
        require_input(!sample->empty(), "Kolmogorov-Smirnov test: a sample is empty");
        for (std::size_t i = 0; i < sample->size(); ++i)
            require_input(!std::isnan((*sample)[i]), "Kolmogorov-Smirnov test: value ", i, " of the ",
                          sample == &a ? "first" : "second", " sample is NaN; look at the losses of that row");
    }
    std::sort(a.begin(), a.end());
    std::sort(b.begin(), b.end());
    const auto n1 = static_cast<std::int64_t>(a.size()), n2 = static_cast<std::int64_t>(b.size());
    const std::int64_t lcm = std::lcm(n1, n2);
    std::int64_t h = 0;
    std::size_t i = 0, j = 0;
    while (i < a.size() && j < b.size()) {
        const double value = std::min(a[i], b[j]);
        while (i < a.size() && a[i] == value) ++i;  // ties move both distributions before they are compared
        while (j < b.size() && b[j] == value) ++j;
        h = std::max(h,
                     std::abs(static_cast<std::int64_t>(i) * (lcm / n1) - static_cast<std::int64_t>(j) * (lcm / n2)));
    }
    return {static_cast<double>(h) / static_cast<double>(lcm), ks_p_value(n1, n2, h)};
}

}  // namespace uipe::eval
