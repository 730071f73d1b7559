#include "tensor/packed_matrix.h"

#include "tensor/cpu/cpu.h"
#include "tensor/ops.h"

namespace uipe::tensor {

PackedMatrix::PackedMatrix(Tensor w, bool pack) : w_(std::move(w)) {
    require(w_.rank() == 2, "a packed matrix has two dimensions, not ", w_.rank());
    if (pack && stands_for(w_.device()) == Device{}) packed_ = cpu::pack(w_);
}

void PackedMatrix::multiply(const Tensor& y, const Tensor& x) const {
    const bool fits = x.rank() == 2 && y.rank() == 2 && x.dim(1) == w_.dim(1) && y.dim(0) == x.dim(0) &&
                      y.dim(1) == w_.dim(0) && x.dtype() == w_.dtype() &&
                      (y.dtype() == x.dtype() || y.dtype() == accumulator_of(x.dtype()));
    if (packed_ && fits && cpu::matmul(y, x, *packed_)) return;
    matmul(y, x, false, w_, true);  // which names what does not fit
}

}  // namespace uipe::tensor
