#include "tensor/parallel.h"

#include <mutex>

#include "tests/tensor/reference.h"

namespace uipe::tensor::test {
namespace {

TEST(ParallelFor, CoversEachIndexOnceForAnyLengthGrainAndThreads) {
    const int threads = num_threads();
    for (const int t : {1, 2, 3, 7}) {
        set_num_threads(t);
        for (const std::int64_t n : {0, 1, 2, 6, 7, 100, 1001})
            for (const std::int64_t grain : {1, 3, 64, 5000}) {
                std::vector<int> seen(static_cast<std::size_t>(n));
                std::mutex mutex;
                std::int64_t ranges = 0;
                parallel_for(n, grain, [&](std::int64_t begin, std::int64_t end) {
                    const std::lock_guard lock(mutex);
                    ++ranges;
                    for (std::int64_t i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
                });
                for (const int count : seen) ASSERT_EQ(count, 1) << "n " << n << " grain " << grain << " threads " << t;
                EXPECT_LE(ranges, t);
                EXPECT_LE(ranges, n / grain + 1);
            }
    }
    set_num_threads(threads);
}

TEST(ParallelFor, InsideAnotherRunsInTheCallingThread) {
    const int threads = num_threads();
    set_num_threads(2);
    std::vector<int> count(8);
    parallel_for(8, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i)
            parallel_for(5, 1, [&](std::int64_t from, std::int64_t to) {
                count[static_cast<std::size_t>(i)] += static_cast<int>(to - from);
            });
    });
    for (const int c : count) EXPECT_EQ(c, 5);
    set_num_threads(threads);
}

}  // namespace
}  // namespace uipe::tensor::test
