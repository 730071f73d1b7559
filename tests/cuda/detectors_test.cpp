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
    const auto right = run_planted(Planted::buffer_refilled_early, false);
    EXPECT_NE(run_planted(Planted::buffer_refilled_early, true), right);
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
    for (const Planted bug : {Planted::shared_race, Planted::global_race, Planted::buffer_refilled_early}) {
        EXPECT_DEATH(run_planted(bug, true), "data race");
        EXPECT_NO_THROW(run_planted(bug, false));
    }
}

}  // namespace
}  // namespace uipe::tensor::test

#endif
