// Ops that the CUDA backend still lacks.
#include "tensor/cuda/cuda.h"

namespace uipe::tensor::cuda {

void attention(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, std::int64_t) { throw Error("attention is not built for CUDA"); }
void attention_backward(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, std::int64_t, bool, bool, bool) { throw Error("attention_backward is not built for CUDA"); }
void attention_decode(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, std::int64_t) { throw Error("attention_decode is not built for CUDA"); }
void token_logprob(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&) { throw Error("token_logprob is not built for CUDA"); }
void token_logprob_backward(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, bool, const Tensor&) { throw Error("token_logprob_backward is not built for CUDA"); }
void token_kl(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&) { throw Error("token_kl is not built for CUDA"); }
void token_kl_backward(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, bool, const Tensor&) { throw Error("token_kl_backward is not built for CUDA"); }

}  // namespace uipe::tensor::cuda
