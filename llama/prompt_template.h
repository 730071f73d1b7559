// How a question and its answer become one text, and that text token ids with a mask.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "llama/batch.h"
#include "llama/tokenizer.h"

namespace uipe::llama {

/// The text is before + question + after + joint + answer. The prompt ends with `after`: a blank there would be a token
/// of its own that SentencePiece merges into the answer's first piece, so blanks before the answer belong to `joint`.
struct PromptTemplate {
    std::string name;
    std::string before;
    std::string after;
    std::string joint;

    std::string prompt(std::string_view question) const;
    std::string text(std::string_view question, std::string_view answer) const;
};

/// `llama2-chat` (TOFU's template for Llama-2), `qa` (its text for base models; "Answer:" is part of the prompt, as in
/// open-unlearning) or `plain` (question, blank, answer). InputError lists the known names.
const PromptTemplate& prompt_template(std::string_view name);

/// BOS and the prompt, for generation.
std::vector<std::int32_t> encode_prompt(const Tokenizer& tokenizer, const PromptTemplate& form,
                                        std::string_view question);

/// BOS, the text's tokens, EOS, cut to max_length ids; targets are the ids after those of the prompt, so the answer and
/// EOS (TOFU's convert_raw_data_to_model_format). InputError when the cut leaves no target.
Sequence encode_qa(const Tokenizer& tokenizer, const PromptTemplate& form, std::string_view question,
                   std::string_view answer, std::int64_t max_length);

/// BOS, the text's tokens, EOS, cut to max_length ids; everything after BOS is a target. max_length >= 2.
Sequence encode_text(const Tokenizer& tokenizer, std::string_view text, std::int64_t max_length);

}  // namespace uipe::llama
