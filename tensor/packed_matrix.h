// A weight in the order in which products read it fastest, for weights that stay as they are over many products of few
// rows, as in generation.
#pragma once

#include "tensor/tensor.h"

namespace uipe::tensor {

namespace cpu {
struct Packed;
}

/// w[N,C], for products x w^T. It shares w and keeps a copy of it, packed: when w changes, make another. The copy of a
/// bf16 w is in f32 where the processor does not multiply bf16: products would turn w to that each time.
class PackedMatrix {
public:
    /// Without `pack`, or on a GPU, w is read as it lies: on a CPU a fifth slower in products of some 80 rows, and no
    /// second copy.
    explicit PackedMatrix(Tensor w, bool pack = true);

    const Tensor& weight() const { return w_; }
    /// y[T,N] = x[T,C] w^T; x has the type of w, y that or its acc type. Error unless shapes and types agree.
    void multiply(const Tensor& y, const Tensor& x) const;

private:
    Tensor w_;
    std::shared_ptr<const cpu::Packed> packed_;  // none where w is read as it lies
};

}  // namespace uipe::tensor
