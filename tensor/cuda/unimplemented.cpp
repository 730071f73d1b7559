// Ops that the CUDA backend still lacks.
#include "tensor/cuda/cuda.h"

namespace uipe::tensor::cuda {

void sum(const Tensor&, const Tensor&) { throw Error("sum is not built for CUDA"); }
double sum_of_squares(const Tensor&) { throw Error("sum_of_squares is not built for CUDA"); }
bool all_finite(const Tensor&) { throw Error("all_finite is not built for CUDA"); }
void segment_sum(const Tensor&, const Tensor&, const Tensor&) { throw Error("segment_sum is not built for CUDA"); }
void segment_sum_backward(const Tensor&, const Tensor&, const Tensor&, bool) { throw Error("segment_sum_backward is not built for CUDA"); }
void embedding(const Tensor&, const Tensor&, const Tensor&) { throw Error("embedding is not built for CUDA"); }
void embedding_backward(const Tensor&, const Tensor&, const Tensor&) { throw Error("embedding_backward is not built for CUDA"); }
void rmsnorm(const Tensor&, const Tensor&, const Tensor&, const Tensor&, double) { throw Error("rmsnorm is not built for CUDA"); }
void rmsnorm_backward(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, bool) { throw Error("rmsnorm_backward is not built for CUDA"); }
void swiglu(const Tensor&, const Tensor&, const Tensor&) { throw Error("swiglu is not built for CUDA"); }
void swiglu_backward(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, bool, bool) { throw Error("swiglu_backward is not built for CUDA"); }
void rope(const Tensor&, const Tensor&, const Tensor&, std::int64_t, double, bool, bool) { throw Error("rope is not built for CUDA"); }
void cache_write(const Tensor&, const Tensor&, const Tensor&, const Tensor&) { throw Error("cache_write is not built for CUDA"); }
void token_logprob(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&) { throw Error("token_logprob is not built for CUDA"); }
void token_logprob_backward(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, bool, const Tensor&) { throw Error("token_logprob_backward is not built for CUDA"); }
void token_kl(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&) { throw Error("token_kl is not built for CUDA"); }
void token_kl_backward(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, bool, const Tensor&) { throw Error("token_kl_backward is not built for CUDA"); }
void adamw(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const AdamWStep&) { throw Error("adamw is not built for CUDA"); }

}  // namespace uipe::tensor::cuda
