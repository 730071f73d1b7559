// Trains a small SentencePiece BPE tokenizer in the shape of Llama's own.
#pragma once

#include <string>
#include <vector>

#include "tensor/base/file.h"

namespace uipe::llama {

/// Learns `vocab_size` BPE pieces (fewer where the text has no more pairs to merge) from `lines` and writes a
/// SentencePiece model to `out`: <unk> 0, <s> 1, </s> 2, no pad, byte fallback, dummy prefix, identity normalisation.
/// The tags [INST] and [/INST] become one piece each; any other punctuation mark stays a piece of its own.
/// The same lines give the same bytes. InputError when `vocab_size` cannot hold the bytes and the characters of the
/// text.
void train_tokenizer(const std::vector<std::string>& lines, int vocab_size, const fs::path& out);

}  // namespace uipe::llama
