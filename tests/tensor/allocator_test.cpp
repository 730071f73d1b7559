#include "tensor/allocator.h"

#include "tests/tensor/reference.h"

namespace uipe::tensor::test {
namespace {

TEST(Allocator, BlocksAreAlignedAndDistinctForEverySize) {
    std::vector<std::shared_ptr<void>> blocks;
    for (const std::size_t bytes : {0, 1, 63, 64, 65, 1000, 4097, 1 << 20}) {
        blocks.push_back(allocate(bytes, {}));
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(blocks.back().get()) % 64, 0U) << bytes;
        std::memset(blocks.back().get(), static_cast<int>(blocks.size()), bytes);
    }
    EXPECT_EQ(static_cast<unsigned char*>(blocks[2].get())[62], 3);
    EXPECT_EQ(static_cast<unsigned char*>(blocks[6].get())[4096], 7);
}

TEST(Allocator, InUseFollowsTheLiveTensorsAndPeakTheirMost) {
    const std::size_t before = memory_stats().in_use;
    reset_peak();
    {
        const Tensor a = Tensor::empty({1 << 18}, DType::f32);
        const Tensor b = Tensor::empty({1 << 18}, DType::f32);
        EXPECT_GE(memory_stats().in_use - before, std::size_t{2} << 20);
        EXPECT_LE(memory_stats().in_use - before, (std::size_t{2} << 20) * 9 / 8 + 128);
    }
    EXPECT_EQ(memory_stats().in_use, before);
    EXPECT_GE(memory_stats().peak - before, std::size_t{2} << 20);
    reset_peak();
    EXPECT_EQ(memory_stats().peak, before);
}

TEST(Allocator, AViewHoldsItsBlock) {
    const std::size_t before = memory_stats().in_use;
    Tensor view = Tensor::empty({1000, 8}, DType::f64).rows(3, 4);
    EXPECT_GE(memory_stats().in_use - before, 64000U);
    view = Tensor();
    EXPECT_EQ(memory_stats().in_use, before);
}

#if !defined(__SANITIZE_ADDRESS__)  // which gets every block back at once, and ends a program that asks too much
TEST(Allocator, AFreedBlockServesTheNextRequestAndReleaseGivesItBack) {
    release_cache();
    const std::size_t reserved = memory_stats().reserved;
    Tensor::empty({1 << 20}, DType::f32);
    EXPECT_GE(memory_stats().reserved - reserved, std::size_t{4} << 20);
    const std::size_t asked = memory_stats().allocations;
    for (int i = 0; i < 10; ++i) Tensor::empty({(1 << 20) - i}, DType::f32);
    EXPECT_EQ(memory_stats().allocations, asked);
    release_cache();
    EXPECT_EQ(memory_stats().reserved, reserved);
}

TEST(Allocator, ARequestNoMachineCanMeetIsAnErrorThatSaysWhatWouldHelp) {
    const MemoryStats before = memory_stats();
    try {
        allocate(std::size_t{1} << 60, {});
        FAIL() << "no error";
    } catch (const Error& e) {
        EXPECT_NE(std::string(e.what()).find("out of memory"), std::string::npos) << e.what();
    }
    EXPECT_EQ(memory_stats().in_use, before.in_use);
    EXPECT_EQ(memory_stats().peak, before.peak);
}
#endif

TEST(Allocator, PoisonMakesFreshElementsNan) {
    set_poison(true);
    for (int repeat = 0; repeat < 3; ++repeat)  // cached blocks as well as new ones
        for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
            const Tensor x = Tensor::empty({33}, dtype);
            for (const double v : values(x)) EXPECT_TRUE(std::isnan(v));
            fill(x, 1.0);
        }
    set_poison(false);
}

}  // namespace
}  // namespace uipe::tensor::test
