// Text to token ids and back: a SentencePiece model with the conventions of Hugging Face's LlamaTokenizer.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "llama/config.h"
#include "tensor/base/file.h"

namespace uipe::llama {

/// Copies share the loaded model. All functions are safe to call from several threads.
class Tokenizer {
public:
    /// Loads a SentencePiece file, or tokenizer.model of a model folder. InputError when it is missing, corrupt, or
    /// lacks a BOS, EOS or unknown token.
    static Tokenizer load(const fs::path& file_or_folder);

    /// Ids without BOS or EOS. Text is only text: "</s>" in it gives pieces, never the control token.
    std::vector<std::int32_t> encode(std::string_view text) const;
    /// Text without special tokens and without the blank that SentencePiece puts before the first piece.
    /// Ids beyond the vocabulary (rows that only pad a model) are skipped like special tokens; bytes that are no UTF-8
    /// become U+FFFD.
    std::string decode(std::span<const std::int32_t> ids) const;
    /// The piece of each id as the model spells it ("▁of", "<0x0A>"); "<N>" for an id N beyond the vocabulary.
    std::vector<std::string> pieces(std::span<const std::int32_t> ids) const;

    std::int32_t bos_id() const;
    std::int32_t eos_id() const;
    std::int32_t unk_id() const;
    std::int64_t vocab_size() const;
    /// The SentencePiece file it was loaded from.
    const fs::path& file() const;

private:
    struct Model;
    std::shared_ptr<const Model> model_;
};

/// Decodes ids as they come: the pieces of push() and finish(), joined, are decode() of all ids.
class TextStream {
public:
    explicit TextStream(Tokenizer tokenizer) : tokenizer_(std::move(tokenizer)) {}
    /// The text that `id` completes; empty while a character of several bytes is still open.
    std::string push(std::int32_t id);
    /// The same for several ids at once.
    std::string push(std::span<const std::int32_t> ids);
    /// What is still held back.
    std::string finish();

private:
    Tokenizer tokenizer_;
    std::vector<std::int32_t> ids_;
    std::size_t given_ = 0;
};

/// Throws InputError, saying both numbers, when the tokenizer does not belong to the model: more pieces than the model
/// has rows, over 256 fewer (models are padded to round sizes, not by more), or another BOS or EOS.
void check_tokenizer(const Tokenizer& tokenizer, const Config& config);

}  // namespace uipe::llama
