#include "nn/lora.h"

namespace uipe::nn {

Lora::Lora(Tensor a, Tensor b, double scale, double p, std::uint64_t stream)
    : a_(Variable::parameter(std::move(a))),
      b_(Variable::parameter(std::move(b))),
      scale_(scale),
      p_(p),
      stream_(stream) {}

Variable Lora::operator()(const Variable& x, const DropoutAt& dropout) const {
    const Variable kept =
        dropout.places.defined() ? autograd::dropout(x, dropout.places, p_, dropout.seed, stream_) : x;
    return autograd::linear(autograd::scale(autograd::linear(kept, a_), scale_), b_);
}

void Lora::collect(const std::string& prefix, Parameters& out) const {
    out.push_back({prefix + "lora_A.weight", a_});
    out.push_back({prefix + "lora_B.weight", b_});
}

void Lora::freeze() {
    a_ = a_.frozen();
    b_ = b_.frozen();
}

}  // namespace uipe::nn
