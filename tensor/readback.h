// A number that a queue of work will have computed, to be read later: without waiting for work that was queued since.
#pragma once

#include <memory>

#include "tensor/tensor.h"

namespace uipe::tensor {

class Readback {
public:
    /// Queues the copy of the only element of x; on the CPU it is there already.
    explicit Readback(const Tensor& x);
    /// The element, as f64; waits for the copy.
    double item() const;

private:
    Tensor here_;                          // of the CPU, or
    std::shared_ptr<const void> copying_;  // a copy from the device
    DType dtype_;
};

}  // namespace uipe::tensor
