// Stands for the tests of the CUDA backend in a build without it.
#include <gtest/gtest.h>

#include "tensor/tensor.h"

namespace uipe::tensor::test {
namespace {

TEST(CudaBackend, SaysInOneLineThatItIsNotInThisBuild) {
    try {
        (void)device_named("cuda");
        FAIL() << "a device that this build cannot use";
    } catch (const InputError& e) {
        EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos);
        GTEST_SKIP() << e.what() << "; ./run test emulated runs its tests without a GPU";
    }
}

}  // namespace
}  // namespace uipe::tensor::test
