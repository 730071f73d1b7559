// LoRA (Hu et al. 2021, arXiv 2106.09685): beside a frozen matrix a product of two thin ones, which alone is trained.
#pragma once

#include "autograd/ops.h"
#include "nn/module.h"

namespace uipe::nn {

/// By what adapters drop elements of their inputs while they are trained. Without places nothing is dropped.
struct DropoutAt {
    std::uint64_t seed = 0;  // another one for every step
    Tensor places = {};      // i32 [T], as tensor::dropout takes them
};

/// scale * dropout(x) A^T B^T, to be added to x W^T.
class Lora : public Module {
public:
    /// a: [r,C]; b: [N,r], of the type of W. p: the probability with which an element of x is dropped; `stream`: one of
    /// its own for each adapter, so that no two drop alike.
    Lora(Tensor a, Tensor b, double scale, double p = 0.0, std::uint64_t stream = 0);

    /// y[T,N] from x[T,C].
    Variable operator()(const Variable& x, const DropoutAt& dropout) const;

    void collect(const std::string& prefix, Parameters& out) const override;
    void freeze() override;

private:
    Variable a_, b_;
    double scale_, p_;
    std::uint64_t stream_;
};

}  // namespace uipe::nn
