// Ranks working on one model. Every distributed algorithm is written on these five calls.
#pragma once

#include <memory>

#include "tensor/tensor.h"

namespace uipe::tensor {

class Comm {
public:
    virtual ~Comm() = default;
    virtual int rank() const = 0;
    virtual int size() const = 0;

    /// x = the sum of x over all ranks, on all ranks.
    virtual void all_reduce(const Tensor& x) = 0;
    /// y[n] = this rank's share of the sum of x[N*n] over all ranks.
    virtual void reduce_scatter(const Tensor& y, const Tensor& x) = 0;
    /// y[N*n] = every rank's x[n], in order of ranks.
    virtual void all_gather(const Tensor& y, const Tensor& x) = 0;
    /// x = root's x.
    virtual void broadcast(const Tensor& x, int root) = 0;
    virtual void barrier() = 0;
};

/// One process alone: sums are what they are, and gathering copies.
std::unique_ptr<Comm> self_comm();

}  // namespace uipe::tensor
