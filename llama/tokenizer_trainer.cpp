#include "llama/tokenizer_trainer.h"

#include <sentencepiece_trainer.h>

#include <cctype>
#include <string_view>
#include <unordered_map>

#include "tensor/base/error.h"

namespace uipe::llama {
namespace {

// SentencePiece cuts its training text at every name of a meta piece and drops the name. Writing one of them where a
// piece has to end keeps "Lima" apart from "." and "[/INST]" from the answer's first word, and leaves "[INST]" whole.
// (A user-defined piece would keep the tag whole too, but transformers' fast tokenizer encodes the text after it
// differently.)
constexpr std::string_view kCut = "</s>";

std::string with_cuts(std::string_view line) {
    std::string out;
    while (!line.empty()) {
        std::size_t n = 1;
        for (const std::string_view tag : {"[INST]", "[/INST]"})
            if (line.starts_with(tag)) n = tag.size();
        const bool inside_word = n == 1 && !std::ispunct(static_cast<unsigned char>(line[0]));
        if (!inside_word && n == 1) out += kCut;  // a tag keeps the blank before it
        out += line.substr(0, n);
        if (!inside_word) out += kCut;
        line.remove_prefix(n);
    }
    return out;
}

/// Hands the lines to SentencePiece one by one.
class Lines : public sentencepiece::SentenceIterator {
public:
    explicit Lines(const std::vector<std::string>& lines) : lines_(lines) { load(); }
    bool done() const override { return next_ == lines_.size(); }
    void Next() override { ++next_, load(); }
    const std::string& value() const override { return line_; }
    sentencepiece::util::Status status() const override { return {}; }

private:
    void load() {
        if (!done()) line_ = with_cuts(lines_[next_]);
    }

    const std::vector<std::string>& lines_;
    std::size_t next_ = 0;
    std::string line_;
};

}  // namespace

void train_tokenizer(const std::vector<std::string>& lines, int vocab_size, const fs::path& out) {
    require_input(!lines.empty(), out.string(), ": a tokenizer needs text, there is not one line");
    const std::unordered_map<std::string, std::string> settings = {
        {"model_type", "bpe"},
        {"vocab_size", std::to_string(vocab_size)},
        {"hard_vocab_limit", "false"},
        {"byte_fallback", "true"},
        {"character_coverage", "1.0"},
        {"normalization_rule_name", "identity"},
        {"split_by_unicode_script", "false"},
        {"add_dummy_prefix", "true"},
        {"remove_extra_whitespaces", "false"},
        {"unk_id", "0"},
        {"bos_id", "1"},
        {"eos_id", "2"},
        {"pad_id", "-1"},
        {"num_threads", "1"},
        {"minloglevel", "4"},
    };
    Lines iterator(lines);
    std::string model;
    const auto status = sentencepiece::SentencePieceTrainer::Train(settings, &iterator, &model);
    require_input(status.ok(), out.string(), ": cannot train a tokenizer of ", vocab_size,
                  " pieces: ", status.error_message(), "; ask for more pieces or less text");
    write_file(out, model);
}

}  // namespace uipe::llama
