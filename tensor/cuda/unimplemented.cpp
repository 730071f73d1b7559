// Ops that the CUDA backend still lacks.
#include "tensor/cuda/cuda.h"

namespace uipe::tensor::cuda {

void attention(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, std::int64_t) { throw Error("attention is not built for CUDA"); }
void attention_backward(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, std::int64_t, bool, bool, bool) { throw Error("attention_backward is not built for CUDA"); }
void attention_decode(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, std::int64_t) { throw Error("attention_decode is not built for CUDA"); }

}  // namespace uipe::tensor::cuda
