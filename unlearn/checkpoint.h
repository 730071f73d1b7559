// The whole state of a training run as a folder: state.json, and a safetensors file of each rank that wrote it.
// Tensors are named, and where a rank holds a part of one, the part says which elements it is: "m.NAME[begin:end]". So
// what two ranks saved, one or four can read.
#pragma once

#include "llama/safetensors.h"
#include "tensor/base/json.h"
#include "tensor/comm/comm.h"

namespace uipe::unlearn {

/// Writes this rank's `tensors`, and of rank 0 `state`, into `folder`, with the size and checksum of every file: whole
/// or not there. All ranks (none: alone) call it, and all throw when one of them could not write.
void write_checkpoint(const fs::path& folder, const llama::StateDict& tensors, const Json& state,
                      tensor::Comm* comm = nullptr);

class Checkpoint {
public:
    /// Opens a checkpoint when its files are those that were written. InputError, on all ranks, that names the file
    /// that is missing, cut or damaged.
    explicit Checkpoint(const fs::path& folder, tensor::Comm* comm = nullptr);

    const fs::path& folder() const { return folder_; }
    const Json& state() const { return state_; }
    /// InputError unless every tensor of `wanted`, whole or "NAME[begin:end]", can be read in its type.
    void require_holds(const llama::StateDict& wanted) const;
    /// The elements of a tensor, or of the part of one that `name` says, in the shape and type of `like`.
    tensor::Tensor read(const std::string& name, const tensor::Tensor& like) const;

private:
    struct Piece {
        std::int64_t begin, end;
        tensor::Tensor elements;
    };
    fs::path folder_;
    Json state_;
    std::map<std::string, std::vector<Piece>> pieces_;  // by name, in order
};

/// A run's checkpoints by step, oldest first: folders STEP of `folder`.
std::vector<std::pair<std::int64_t, fs::path>> checkpoints_in(const fs::path& folder);

}  // namespace uipe::unlearn
