// NCCL with one rank: the library is found, takes our calls, and its stream is joined. Several ranks: tests/comm.
#include "tests/cuda/cuda_test.h"

#ifdef UIPE_NCCL
#include "tensor/comm/nccl/nccl_comm.h"
#endif

namespace uipe::tensor::test {
namespace {

class CudaNccl : public Cuda {};

TEST_F(CudaNccl, OneRankKeepsWhatItHasAndGathersItself) {
#ifdef UIPE_NCCL
    std::unique_ptr<Comm> comm;
    try {
        comm = nccl_comm(self_comm(), true);
    } catch (const InputError& e) {
        GTEST_SKIP() << e.what();
    }
    for (const DType dtype : {DType::f32, DType::bf16}) {
        const Tensor want = normal({100'003}, dtype);
        const Tensor x = on(want);
        comm->all_reduce(x);
        comm->broadcast(x, 0);
        const Tensor all = on(poisoned(want.shape(), dtype));
        comm->all_gather(all, x);
        const Tensor share = on(poisoned(want.shape(), dtype));
        comm->wait(comm->reduce_scatter(share, all));
        EXPECT_TRUE(same_bits(share.to(Device{}), want));
        axpby(x, 1.0, x, 1.0);  // behind the sums, on the other stream
        axpby(x, 0.5, x, 0.0);
        comm->wait(comm->all_reduce(x));
        EXPECT_TRUE(same_bits(x.to(Device{}), want));
    }
    EXPECT_THROW(comm->all_reduce(Tensor::zeros({2}, DType::f32)), Error);
    comm->barrier();
#else
    GTEST_SKIP() << "this build of the emulator has no MPI to serve NCCL's calls";
#endif
}

}  // namespace
}  // namespace uipe::tensor::test
