// The ops of a meta device: they take the memory that they would take for themselves on the device it stands for, give
// it back, and compute nothing. Shapes and types have been checked in ops.cpp.
#pragma once

#include "tensor/ops.h"

namespace uipe::tensor::meta_ops {

#include "tensor/backend.inc"

}  // namespace uipe::tensor::meta_ops
