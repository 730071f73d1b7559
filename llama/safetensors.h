// The safetensors format: 8 bytes of header length, a JSON header, then the bytes of all tensors.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>

#include "tensor/base/file.h"
#include "tensor/tensor.h"

namespace uipe::llama {

/// Tensors by name.
using StateDict = std::map<std::string, tensor::Tensor>;

/// The tensors of a file. They are views of one shared read-only map of it (never write to them); only F16, which
/// becomes f32, and data misaligned for its type are copied. F64, F32, BF16, F16 and I32 are read.
/// InputError names the file, the tensor and the fault: nothing in the header is believed before it is checked.
StateDict read_safetensors(const fs::path& path);

/// Gives a tensor by its name when its turn to be written has come; the dictionary then says its shape and type alone.
using Fetch = std::function<tensor::Tensor(const std::string& name)>;

/// Writes tensors, in the float type `dtype` or else as they are, one after another: that one alone is converted or
/// brought from its device at a time. The file is whole or not there.
void write_safetensors(const fs::path& path, const StateDict& tensors, std::optional<tensor::DType> dtype = {},
                       const std::map<std::string, std::string>& metadata = {{"format", "pt"}},
                       const Fetch& fetch = {});

}  // namespace uipe::llama
