// A tensor's place on the host, on its way from a device or to it: memory that the device reads and writes by itself
// while the host does something else.
#pragma once

#include <memory>

#include "tensor/tensor.h"

namespace uipe::tensor {

class Staging {
public:
    /// Takes pinned memory for tensors of at most `bytes` of `device`: a GPU, or the meta device that stands for one.
    Staging(std::size_t bytes, Device device);

    /// A tensor here, of a shape and a type, with anything in it: what was here is lost. Waits for the last copy.
    Tensor place(const Shape& shape, DType dtype);
    /// Queues a copy of x to a place here. Waits for the copy before.
    void fetch(const Tensor& x);
    /// What fetch() brings. Waits for it, and for nothing that was queued after it.
    Tensor fetched() const;
    /// Queues a copy of what is here to y, of the same shape and type.
    void send(const Tensor& y);

private:
    Tensor here_;
    Tensor planned_;                // counted, on a meta device; or
    std::shared_ptr<void> pinned_;  // memory that is
    std::size_t bytes_;
};

/// Where tensors of the host are that belong to those of `device`: the host, or in a plan what stands for it.
Device host_of(Device device);

}  // namespace uipe::tensor
