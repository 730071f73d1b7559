// Which rows of a batch the heads compute: token_logprob those with a target, token_kl those that a mask marks.
#pragma once

#include <vector>

#include "tensor/tensor.h"

namespace uipe::tensor {

/// The t with targets[t] >= 0, in order.
inline std::vector<std::int32_t> rows_with_target(const Tensor& targets) {
    std::vector<std::int32_t> rows;
    for (std::int32_t t = 0; t < targets.numel(); ++t)
        if (targets.data<std::int32_t>()[t] >= 0) rows.push_back(t);
    return rows;
}

/// The t of [0, T) with mask[t] != 0, in order; all without a mask.
inline std::vector<std::int32_t> rows_in_mask(std::int64_t T, const Tensor& mask) {
    std::vector<std::int32_t> rows;
    for (std::int32_t t = 0; t < T; ++t)
        if (!mask.defined() || mask.data<std::int32_t>()[t] != 0) rows.push_back(t);
    return rows;
}

}  // namespace uipe::tensor
