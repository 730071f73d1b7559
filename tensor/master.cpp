#include "tensor/master.h"

#include <bit>

#include "tensor/parallel.h"

namespace uipe::tensor {

Tensor masters_of(const Tensor& weights, const Tensor& rest) {
    if (!rest.defined()) return weights;
    const Tensor w = weights.to(Device{});
    const Tensor r = rest.to(Device{});
    const Tensor out = Tensor::empty(w.shape(), DType::f32);
    parallel_for(
        w.numel(), 16384,
        [y = out.data<float>(), w = w.data<bf16>(), r = r.data<bf16>()](std::int64_t begin, std::int64_t end) {
            for (std::int64_t i = begin; i < end; ++i)
                y[i] = std::bit_cast<float>(master_bits<std::uint32_t>(std::uint32_t{w[i].bits} << 16, r[i].bits));
        });
    return out;
}

}  // namespace uipe::tensor
