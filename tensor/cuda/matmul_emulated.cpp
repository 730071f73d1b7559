// Matrix products beside the emulator: the CPU's, on the same memory.
#ifdef UIPE_EMULATED

#include "tensor/cpu/cpu.h"
#include "tensor/cuda/cuda.h"

namespace uipe::tensor::cuda {
namespace {

Tensor on_host(const Tensor& t) { return Tensor::borrow(t.raw(), t.shape(), t.dtype(), nullptr); }

}  // namespace

void check_products() { (void)emulator::options(); }

void matmul(const Tensor& y, const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b, bool accumulate) {
    cpu::matmul(on_host(y), on_host(a), transpose_a, on_host(b), transpose_b, accumulate);
}

}  // namespace uipe::tensor::cuda

#endif
