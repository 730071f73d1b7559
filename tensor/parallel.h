// Work split over OpenMP threads. A kernel may split only over independent outputs and must keep each sum in an order
// that the shapes alone decide, so that every thread count gives the same bits. (oneDNN's of bf16 may be
// cut by threads: products_keep_bits.)
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <vector>

#include "tensor/comm/launch.h"

namespace uipe::tensor {

constexpr std::int64_t ceil_div(std::int64_t n, std::int64_t step) { return (n + step - 1) / step; }
constexpr std::int64_t round_up(std::int64_t n, std::int64_t step) { return ceil_div(n, step) * step; }

/// Sets the number of threads of every later kernel (oneDNN's included). 0: all cores, or a rank's share of them.
inline void set_num_threads(int threads) { omp_set_num_threads(threads > 0 ? threads : default_threads()); }
inline int num_threads() { return omp_get_max_threads(); }

/// Calls body(begin, end) on disjoint ranges that cover [0, n), each of at least `grain` items where n allows.
template <class Body>
void parallel_for(std::int64_t n, std::int64_t grain, const Body& body) {
    if (n <= 0) return;
    const std::int64_t parts = std::min<std::int64_t>(num_threads(), ceil_div(n, grain));
    if (parts <= 1 || omp_in_parallel()) {
        body(std::int64_t{0}, n);
        return;
    }
    std::exception_ptr failure;  // none may leave a parallel region; the last one is thrown after it
#pragma omp parallel for num_threads(static_cast <int>(parts)) schedule(static, 1)
    for (std::int64_t part = 0; part < parts; ++part) try {
            body(n * part / parts, n * (part + 1) / parts);
        } catch (...) {
#pragma omp critical(uipe_failure)
            failure = std::current_exception();
        }
    if (failure) std::rethrow_exception(failure);
}

/// Ranges of consecutive items, one a thread, that cost about the same: item ends[i] to ends[i + 1].
inline std::vector<std::size_t> split_by_costs(const std::vector<std::int64_t>& costs) {
    const int threads = num_threads();
    std::int64_t total = 0;
    for (const std::int64_t cost : costs) total += cost;
    std::vector<std::size_t> ends{0};
    std::int64_t sum = 0;
    for (std::size_t i = 0; i < costs.size(); ++i) {
        sum += costs[i];
        if (sum * threads >= total * static_cast<std::int64_t>(ends.size())) ends.push_back(i + 1);
    }
    if (ends.back() < costs.size()) ends.push_back(costs.size());
    return ends;
}

/// Calls body(begin, end) on those ranges, on all threads.
template <class Body>
void parallel_for_costs(const std::vector<std::int64_t>& costs, const Body& body) {
    const std::vector<std::size_t> ends = split_by_costs(costs);
    parallel_for(static_cast<std::int64_t>(ends.size()) - 1, 1, [&](std::int64_t first, std::int64_t last) {
        for (auto part = static_cast<std::size_t>(first); part < static_cast<std::size_t>(last); ++part)
            body(ends[part], ends[part + 1]);
    });
}

/// For plans: makes the workspaces that parallel_for_costs would have at once, and lets go of them.
template <class Make>
void take_workspaces(const std::vector<std::int64_t>& costs, const Make& make) {
    std::vector<decltype(make())> all;
    const std::size_t ranges = split_by_costs(costs).size() - 1;
    while (all.size() < std::min(ranges, static_cast<std::size_t>(num_threads()))) all.push_back(make());
}

}  // namespace uipe::tensor
