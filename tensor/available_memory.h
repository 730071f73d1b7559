// How much memory a run can still take.
#pragma once

#include <cstddef>

#include "tensor/base/file.h"
#include "tensor/tensor.h"

namespace uipe::tensor {

/// Bytes that are free on a GPU, or that a new program can take on this machine without swapping.
std::size_t available_memory(Device device);

/// The latter by the kernel's files below `root`: what the machine has available, and what the limit of this process's
/// control group and of those above it leaves, the least of them. The largest number where the kernel does not say.
std::size_t available_host_memory(const fs::path& root = "/");

}  // namespace uipe::tensor
