// What another engine needs to do the same work as the benchmarks here, and to be checked against them.
#pragma once

#include "tensor/base/file.h"

namespace uipe::bench {

/// Writes into `folder`, made when missing:
///   15M/, 110M/  the models as Hugging Face folders, f32
///   step.json    the token ids of the sequences of a training step
///   rows.json    the lengths of the 64 rows that attention is measured on
///   tofu.json    (where UIPE_DATA is set) for each row of the TOFU task the ids of its prompt, of its answers with
///                the average loss of each, and the new tokens that the 15M model gives greedily
void write_fixture(const fs::path& folder);

}  // namespace uipe::bench
