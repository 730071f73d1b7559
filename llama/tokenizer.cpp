#include "llama/tokenizer.h"

#include <sentencepiece_processor.h>

#include <algorithm>

#include "tensor/base/error.h"

namespace uipe::llama {

struct Tokenizer::Model {
    sentencepiece::SentencePieceProcessor processor;
    fs::path file;

    bool knows(std::int32_t id) const { return 0 <= id && id < processor.GetPieceSize(); }
};

Tokenizer Tokenizer::load(const fs::path& file_or_folder) {
    const fs::path path = fs::is_directory(file_or_folder) ? file_or_folder / "tokenizer.model" : file_or_folder;
    const std::string bytes = read_file(path);
    const auto model = std::make_shared<Model>();
    model->file = path;
    const auto status = model->processor.LoadFromSerializedProto(bytes);
    require_input(status.ok(), path.string(), ": is no SentencePiece model or is corrupt; fetch it again");
    for (const int id : {model->processor.bos_id(), model->processor.eos_id(), model->processor.unk_id()})
        require_input(model->knows(id), path.string(), ": lacks a BOS, EOS or unknown token; use a Llama tokenizer");
    Tokenizer tokenizer;
    tokenizer.model_ = model;
    return tokenizer;
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text) const {
    std::vector<int> ids;
    const auto status = model_->processor.Encode(text, &ids);
    require(status.ok(), file().string(), ": cannot encode: ", status.ToString());
    return ids;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
    std::vector<int> kept;
    for (const std::int32_t id : ids)
        if (model_->knows(id) && !model_->processor.IsControl(id) && !model_->processor.IsUnknown(id))
            kept.push_back(id);
    std::string text;
    const auto status = model_->processor.Decode(kept, &text);
    require(status.ok(), file().string(), ": cannot decode: ", status.ToString());
    return text;
}

std::vector<std::string> Tokenizer::pieces(std::span<const std::int32_t> ids) const {
    std::vector<std::string> texts;
    for (const std::int32_t id : ids)
        texts.push_back(model_->knows(id) ? model_->processor.IdToPiece(id) : cat("<", id, ">"));
    return texts;
}

std::int32_t Tokenizer::bos_id() const { return model_->processor.bos_id(); }
std::int32_t Tokenizer::eos_id() const { return model_->processor.eos_id(); }
std::int32_t Tokenizer::unk_id() const { return model_->processor.unk_id(); }
std::int64_t Tokenizer::vocab_size() const { return model_->processor.GetPieceSize(); }
const fs::path& Tokenizer::file() const { return model_->file; }

std::string TextStream::push(std::int32_t id) { return push(std::span(&id, 1)); }

std::string TextStream::push(std::span<const std::int32_t> ids) {
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    const std::string text = tokenizer_.decode(ids_);
    // A character spelled in byte tokens reads as U+FFFD until its last byte is there.
    if (text.ends_with("\xEF\xBF\xBD")) return {};
    const std::string fresh = text.substr(given_);
    given_ = text.size();
    return fresh;
}

std::string TextStream::finish() {
    const std::string text = tokenizer_.decode(ids_);
    const std::string rest = text.substr(given_);
    given_ = text.size();
    return rest;
}

void check_tokenizer(const Tokenizer& tokenizer, const Config& config) {
    constexpr std::int64_t max_padding = 256;
    const std::int64_t pieces = tokenizer.vocab_size();
    const std::string where = tokenizer.file().string();
    require_input(pieces <= config.vocab_size && config.vocab_size - pieces <= max_padding, where, ": holds ", pieces,
                  " pieces, the model's vocab_size is ", config.vocab_size, "; use the tokenizer of this model");
    require_input(tokenizer.bos_id() == config.bos_token_id, where, ": BOS is ", tokenizer.bos_id(),
                  ", the model's bos_token_id is ", config.bos_token_id, "; use the tokenizer of this model");
    const auto& eos = config.eos_token_ids;
    require_input(std::find(eos.begin(), eos.end(), tokenizer.eos_id()) != eos.end(), where, ": EOS is ",
                  tokenizer.eos_id(), ", which is not in the model's eos_token_id (first ", eos.front(),
                  "); use the tokenizer of this model");
}

}  // namespace uipe::llama
