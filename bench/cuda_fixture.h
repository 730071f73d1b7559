// What PyTorch needs to do the work of the GPU benchmarks on the same numbers, and to be checked against them.
#pragma once

#include "tensor/base/file.h"

namespace uipe::bench {

/// Writes into `folder`, made when missing:
///   model/              where wanted: LLaMA-2-7B with the benchmarks' weights, a Hugging Face folder, bf16 (13.5 GB)
///   rows.json           token ids: "step", a sequence; "forget" and "retain", rows of a step of unlearning, each
///                       {"ids", "first_target"}; "prompts", of TOFU; "prompt", of one sequence
///   checks.safetensors  inputs and outcomes of attention, the head and the optimizer on small problems:
///                       CASE/q, k, v, dout [T,H,D], cu [B+1], and out, dq, dk, dv, where CASE is attention_SHAPE;
///                       head/hidden, w, targets, and logp, dhidden, dw of the mean loss; optimizer/master, grad and,
///                       after two steps with clipping, stepped
void write_gpu_fixture(const fs::path& folder, bool model);

/// Loads the model of a fixture as a run of training does, does one step, and prints it as JSON.
void first_step(const fs::path& folder);

}  // namespace uipe::bench
