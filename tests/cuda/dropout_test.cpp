#include "tests/cuda/cuda_test.h"

namespace uipe::tensor::test {
namespace {

class CudaDropout : public CudaFloats {};
UIPE_CUDA_FLOATS(CudaDropout);

TEST_P(CudaDropout, IsTheCpusWrittenOverAndAddedTo) {
    for (const Shape& shape : {Shape{1, 1}, Shape{3, 7}, Shape{5, 64}, Shape{2, 67}, Shape{3, 520}, Shape{0, 8}})
        for (const double p : {0.0, 0.1, 0.7})
            for (const bool accumulate : {false, true}) {
                const Tensor places = indices(shape[0], 0, 1 << 30);
                const Tensor x = normal(shape, GetParam());
                const Tensor y = output(shape, GetParam(), accumulate);
                const Tensor got = on(y);
                const Tensor want = wide(y);
                dropout(got, on(x), places, p, seed(), 5, accumulate);
                dropout(want, wide(x), places, p, seed(), 5, accumulate);
                expect_elements(got, want, accumulate ? 1.0 : 0.0);
                const std::vector<double> theirs = values(want);
                const std::vector<double> ours = values(got.to(Device{}));
                for (std::size_t i = 0; !accumulate && i < theirs.size(); ++i)
                    ASSERT_EQ(ours[i] == 0.0, theirs[i] == 0.0) << "one mask";
            }
}

TEST_P(CudaDropout, RowsThatAreNotAlignedToAVector) {
    const Tensor x = normal({5, 8}, GetParam());
    const Tensor shifted = on(normal({41}, GetParam())).rows(1, 41).view({5, 8});
    copy(shifted, on(x));
    const Tensor places = indices(5, 0, 100);
    const Tensor y = on(poisoned({5, 8}, GetParam()));
    const Tensor want = wide(x).clone();
    dropout(y, shifted, places, 0.4, seed(), 1);
    dropout(want, wide(x), places, 0.4, seed(), 1);
    expect_elements(y, want);
}

TEST_P(CudaDropout, UniformNumbersHaveTheBitsOfTheCpu) {
    const Tensor here = Tensor::empty({1000}, GetParam());
    const Tensor there = on(here);
    fill_uniform(here, 0.02, seed(), 3);
    fill_uniform(there, 0.02, seed(), 3);
    EXPECT_TRUE(same_bits(there.to(Device{}), here));
}

}  // namespace
}  // namespace uipe::tensor::test
