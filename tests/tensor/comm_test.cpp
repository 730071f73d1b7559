#include "tensor/comm/comm.h"

#include "tests/tensor/reference.h"

namespace uipe::tensor::test {
namespace {

TEST(SelfComm, OneRankKeepsWhatItHasAndGathersItself) {
    const auto comm = self_comm();
    EXPECT_EQ(comm->rank(), 0);
    EXPECT_EQ(comm->size(), 1);
    for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
        const Tensor x = normal({33}, dtype);
        const Tensor kept = x.clone();
        comm->wait(comm->all_reduce(x));
        comm->wait(comm->broadcast(x, 0));
        comm->barrier();
        EXPECT_TRUE(same_bits(x, kept));
        const Tensor all = poisoned({33}, dtype);
        comm->wait(comm->all_gather(all, x));
        EXPECT_TRUE(same_bits(all, x));
        const Tensor share = poisoned({33}, dtype);
        comm->wait(comm->reduce_scatter(share, x));
        EXPECT_TRUE(same_bits(share, x));
        comm->wait(comm->all_gather(x, x));  // in place
        EXPECT_TRUE(same_bits(x, kept));
    }
    EXPECT_EQ(comm->gather("bytes"), std::vector<std::string>{"bytes"});
    EXPECT_EQ(comm->traffic().total(), Traffic::Count{});
}

TEST(SelfComm, RefusesOtherSizesAndOtherRoots) {
    const auto comm = self_comm();
    const Tensor x = Tensor::zeros({4}, DType::f32);
    EXPECT_THROW(comm->all_gather(Tensor::zeros({8}, DType::f32), x), Error);
    EXPECT_THROW(comm->reduce_scatter(Tensor::zeros({2}, DType::f32), x), Error);
    EXPECT_THROW(comm->all_gather(Tensor::zeros({4}, DType::f64), x), Error);
    EXPECT_THROW(comm->broadcast(x, 1), Error);
    EXPECT_THROW(comm->broadcast(Tensor::zeros({4}, DType::i32), 0), Error);
}

TEST(SelfComm, IsTheWorldWithoutALauncher) { EXPECT_EQ(world()->size(), 1); }

}  // namespace
}  // namespace uipe::tensor::test
