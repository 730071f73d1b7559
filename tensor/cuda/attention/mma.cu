// Level 3: not built yet.
#include "tensor/cuda/attention/attention.h"

namespace uipe::tensor::cuda::attend {

bool mma_takes(DType /*dtype*/, std::int64_t /*D*/) { return false; }
void mma_forward(const Forward<bf16>& /*f*/, const Batch& /*batch*/) { throw Error("attention by mma is not built"); }
void mma_backward(const Backward<bf16>& /*b*/, const Batch& /*batch*/) { throw Error("attention by mma is not built"); }

}  // namespace uipe::tensor::cuda::attend
