// The emulator finds what it says it finds: each planted bug is caught, its clean twin is not.
#include "tests/cuda/cuda_test.h"

#ifdef UIPE_EMULATED
#include "tensor/cuda/device/emulator.h"
#include "tests/cuda/planted.h"

namespace uipe::tensor::test {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool addresses_watched = true;
#else
constexpr bool addresses_watched = false;
#endif
#if defined(UIPE_RACES)
constexpr bool races_watched = true;
#else
constexpr bool races_watched = false;
#endif

/// Options that end with the test.
class Detectors : public ::testing::Test {
protected:
    void SetUp() override { emulator::options() = {}; }
    void TearDown() override { emulator::options() = before_; }

private:
    emulator::Options before_ = emulator::options();
};

std::string message_of(Planted bug) {
    try {
        run_planted(bug, true);
    } catch (const Error& e) {
        return e.what();
    }
    return {};
}

#define EXPECT_FOUND(bug, text)                                                  \
    EXPECT_NE(message_of(bug).find(text), std::string::npos) << message_of(bug); \
    EXPECT_NO_THROW(run_planted(bug, false))

TEST_F(Detectors, ASyncThatSomeThreadsDoNotReach) {
    EXPECT_FOUND(Planted::sync_left_out, "threads 0-63 at sync (planted.cu:");
    EXPECT_NE(message_of(Planted::sync_left_out).find("64-127 finished"), std::string::npos);
}
TEST_F(Detectors, ThreadsAtTwoSyncs) { EXPECT_FOUND(Planted::two_syncs, "is at the sync of planted.cu:"); }
TEST_F(Detectors, ALaneThatIsMissing) { EXPECT_FOUND(Planted::lane_left_out, "7-7 finished"); }
TEST_F(Detectors, LanesAtTwoOperations) { EXPECT_FOUND(Planted::two_operations, "others of its warp are at"); }
TEST_F(Detectors, MatrixOutsideSharedMemory) { EXPECT_FOUND(Planted::matrix_outside, "outside it"); }
TEST_F(Detectors, MatrixAtAnOddAddress) { EXPECT_FOUND(Planted::matrix_unaligned, "not aligned to 16"); }
TEST_F(Detectors, CopyOutsideSharedMemory) { EXPECT_FOUND(Planted::copy_outside, "copy_async (planted.cu:"); }

TEST_F(Detectors, MemoryThatWasNotWritten) {
    for (const int poison : {0xFF, 0x7F}) {
        emulator::options().poison = static_cast<std::uint8_t>(poison);
        EXPECT_EQ(run_planted(Planted::unwritten_shared, true)[5], static_cast<std::uint32_t>(poison) * 0x01010101U);
        EXPECT_EQ(run_planted(Planted::unwritten_shared, false)[5], 1U);
    }
}

TEST_F(Detectors, ACopyThatNobodyWaitedFor) {
    const auto right = run_planted(Planted::copy_not_waited_for, false);
    EXPECT_EQ(run_planted(Planted::copy_not_waited_for, true), right);  // it came early
    emulator::options().late_copies = true;
    EXPECT_EQ(run_planted(Planted::copy_not_waited_for, false), right);
    EXPECT_NE(run_planted(Planted::copy_not_waited_for, true), right);
}

TEST_F(Detectors, ABufferFilledAgainTooEarly) {
    if (races_watched) GTEST_SKIP() << "the race detector stops the program";
    for (const Planted bug : {Planted::buffer_refilled_early, Planted::box_refilled_early})
        EXPECT_NE(run_planted(bug, true), run_planted(bug, false));
}

TEST_F(Detectors, ABarrierThatCountsWrong) {
    for (const bool late : {false, true}) {
        emulator::options().late_copies = late;
        EXPECT_FOUND(Planted::bytes_too_many, "threads 0-127 at barrier_wait (planted.cu:");
        EXPECT_FOUND(Planted::arrivals_too_few, "threads 0-127 at barrier_wait (planted.cu:");
        if (!races_watched) {
            EXPECT_FOUND(Planted::bytes_too_few,
                         late ? "while copies of boxes are under way" : "told of -2048 bytes more");
        }
        EXPECT_FOUND(Planted::barrier_not_made, "at a barrier that was not initialised");
        EXPECT_FOUND(Planted::box_outside, "copy_box (planted.cu:");
    }
}

TEST_F(Detectors, AProductWithoutAFence) { EXPECT_FOUND(Planted::product_not_begun, "multiply (planted.cu:"); }

TEST_F(Detectors, WhatIsUnderWayIsReadOrOverwritten) {
    // Each is right if what it does not wait for comes early.
    for (const auto& [bug, found_late] : {std::pair{Planted::barrier_not_waited_for, true},
                                          {Planted::product_not_waited_for, false},
                                          {Planted::operand_overwritten, false}}) {
        SCOPED_TRACE(static_cast<int>(bug));
        if (races_watched && bug != Planted::product_not_waited_for) continue;  // it stops the program
        emulator::options().late_copies = !found_late;
        const auto right = run_planted(bug, false);
        EXPECT_EQ(run_planted(bug, true), right);
        emulator::options().late_copies = found_late;
        EXPECT_EQ(run_planted(bug, false), right);
        EXPECT_NE(run_planted(bug, true), right);
    }
}

TEST_F(Detectors, ResultsThatDependOnTheOrderOfThreads) {
    std::vector<std::vector<std::uint32_t>> clean;
    std::vector<std::vector<std::uint32_t>> bad;
    for (const auto order : {emulator::Order::forward, emulator::Order::reverse, emulator::Order::random}) {
        emulator::options().order = order;
        clean.push_back(run_planted(Planted::order_of_warps, false));
        bad.push_back(run_planted(Planted::order_of_warps, true));
    }
    EXPECT_EQ(clean[0], clean[1]);
    EXPECT_EQ(clean[0], clean[2]);
    EXPECT_NE(bad[0], bad[1]);
    EXPECT_NE(bad[0], bad[2]);
}

TEST_F(Detectors, BankConflicts) {
    EXPECT_EQ(conflicts(true), 0U);
    EXPECT_GT(conflicts(false), 0U);
}

TEST_F(Detectors, AccessesOutsideAnArray) {
    if (!addresses_watched) GTEST_SKIP() << "found by AddressSanitizer: preset emulated-asan";
    for (const Planted bug : {Planted::shared_outside, Planted::global_outside}) {
        EXPECT_DEATH(run_planted(bug, true), "AddressSanitizer");
        EXPECT_NO_THROW(run_planted(bug, false));
    }
}

TEST_F(Detectors, Races) {
    if (!races_watched) GTEST_SKIP() << "found by ThreadSanitizer: preset emulated-races";
    // In a process of its own: one that was forked cannot begin to watch a thread that is new, as the copy engine is.
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    for (const Planted bug :
         {Planted::shared_race, Planted::global_race, Planted::buffer_refilled_early, Planted::barrier_not_waited_for,
          Planted::bytes_too_few, Planted::box_refilled_early, Planted::operand_overwritten}) {
        SCOPED_TRACE(static_cast<int>(bug));
        EXPECT_DEATH(run_planted(bug, true), "data race");
        EXPECT_NO_THROW(run_planted(bug, false));
    }
}

}  // namespace
}  // namespace uipe::tensor::test

#endif
