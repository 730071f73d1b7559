// Training data: files of rows to token sequences, the order in which an epoch visits them, and the pairing of forget
// rows with retain rows. Order and pairing depend on (seed, epoch) alone, so a resumed run sees what it would have
// seen.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "llama/prompt_template.h"
#include "tensor/base/file.h"

namespace uipe::unlearn {

/// Reads rows {"question","answer"} (the answer is learned), rows {"text"} (all of it is), or, from a .txt file, a
/// text a line. JSON lines or a JSON array. InputError names the row; an empty file is an error.
std::vector<llama::Sequence> read_sequences(const fs::path& file, const llama::Tokenizer& tokenizer,
                                            const llama::PromptTemplate& form, std::int64_t max_length);

/// Answers that refuse, behind a prompt that stands for any: the lines of a file, or without one the built-in hundred.
/// InputError as of read_sequences().
std::vector<llama::Sequence> read_refusals(const fs::path& file, const llama::Tokenizer& tokenizer,
                                           const llama::PromptTemplate& form, std::int64_t max_length);

/// The rows an epoch (from 0) visits: all `rows`, shuffled unless `shuffle` is false, joined by `replayed` draws
/// without repetition (as far as they last) from another set, whose row i is numbered rows + i.
std::vector<std::int64_t> epoch_order(std::int64_t rows, std::int64_t replay_rows, std::int64_t replayed, bool shuffle,
                                      std::uint64_t seed, std::int64_t epoch);

/// The retain row paired with forget row `row` in `epoch`: uniform, a new draw each epoch.
std::int64_t paired_row(std::int64_t retain_rows, std::uint64_t seed, std::int64_t epoch, std::int64_t row);

/// The refusal paired with it, drawn apart from that.
std::int64_t paired_refusal(std::int64_t refusals, std::uint64_t seed, std::int64_t epoch, std::int64_t row);

}  // namespace uipe::unlearn
