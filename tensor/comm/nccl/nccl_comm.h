// Ranks with a GPU each, joined by NCCL, on a stream beside the one that computes.
#pragma once

#include <cstddef>

#include "tensor/comm/comm.h"

namespace uipe::tensor {

/// Bytes of the device in which numbers wait to be added up, unless told otherwise.
constexpr std::size_t nccl_staging = std::size_t{32} << 20;

/// `host` joins the same ranks for what the host exchanges, NCCL's first greeting among it. With `fixed_order` every
/// sum of f32 is taken in the order of ranks. Where that takes more than NCCL's own sums (more than two ranks; bf16
/// too, which NCCL rounds at each rank), others' numbers wait in `staging` bytes of the device. InputError when NCCL is
/// missing, or when two ranks have one GPU.
std::unique_ptr<Comm> nccl_comm(std::unique_ptr<Comm> host, bool fixed_order, std::size_t staging = nccl_staging);

}  // namespace uipe::tensor
