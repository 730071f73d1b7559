// The LM head of greedy decoding: the likeliest token of each row.
#pragma once

#include <vector>

#include "tensor/packed_matrix.h"

namespace uipe::tensor {

/// Of the logits hidden[T,C] w[V,C]^T only the largest is wanted, so they are screened first: computed in bf16 where w
/// is f32 and the processor multiplies bf16 (twice as fast), a slice of the vocabulary at a time, which the caches
/// hold. Then those that can be the largest, by a bound on the screen's error, are computed again in the accumulator's
/// type. The answer is that of all logits in that type. (On a GPU all logits are computed, in the accumulator's type.)
///
/// Bound: with h' and w' the rounded h and w, |h w - h' w'| = |(h - h') w + h' (w - w')| <= |h - h'| |w| + |h'| |w -
/// w'| by Cauchy and Schwarz, and C roundings of the sum.
///
/// It shares w and keeps copies of it: when w changes, make another.
class GreedyHead {
public:
    /// `pack` as for PackedMatrix.
    explicit GreedyHead(const Tensor& w, bool pack = true);

    /// i32 [T]: for each row the first of the largest logits; 0 where all are NaN or -infinity.
    Tensor likeliest(const Tensor& hidden) const;

private:
    Tensor w_;
    DType screen_;                      // the type of the screen's products
    std::vector<PackedMatrix> slices_;  // of w, in that type
    double norm_ = 0.0;                 // the largest |w[v]|
    double rounded_off_ = 0.0;          // the largest |w[v] - w'[v]|
};

}  // namespace uipe::tensor
