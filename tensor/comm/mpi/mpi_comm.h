// Ranks joined by MPI, with tensors on the CPU.
#pragma once

#include <cstddef>

#include "tensor/comm/comm.h"

namespace uipe::tensor {

/// In bytes. The numbers to be added wait in two buffers, which lie in a processor's own cache by default: for two
/// ranks on a machine a sum took a third less time so than with buffers of 16 MiB.
struct MpiLimits {
    std::size_t staging = std::size_t{1} << 20;  // of a buffer, from all ranks, …
    std::size_t piece = std::size_t{1} << 16;    // … but no less than this from each
    std::size_t message = std::size_t{1} << 30;  // less than 2^31
};

/// All ranks make it together, and one at a time: its thread is then the only one that calls MPI.
std::unique_ptr<Comm> mpi_comm(const MpiLimits& limits = {});

}  // namespace uipe::tensor
