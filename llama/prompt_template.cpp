#include "llama/prompt_template.h"

#include <algorithm>
#include <array>

#include "tensor/base/error.h"

namespace uipe::llama {
namespace {

/// BOS, the tokens, EOS, cut to max_length.
std::vector<std::int32_t> framed(const Tokenizer& tokenizer, std::string_view text, std::int64_t max_length) {
    std::vector<std::int32_t> ids = {tokenizer.bos_id()};
    const std::vector<std::int32_t> body = tokenizer.encode(text);
    ids.insert(ids.end(), body.begin(), body.end());
    ids.push_back(tokenizer.eos_id());
    if (static_cast<std::int64_t>(ids.size()) > max_length) ids.resize(static_cast<std::size_t>(max_length));
    return ids;
}

void check_length(std::int64_t max_length) {
    require_input(max_length >= 2, "a sequence length of ", max_length, " leaves nothing to predict; give at least 2");
}

}  // namespace

std::string PromptTemplate::prompt(std::string_view question) const { return cat(before, question, after); }

std::string PromptTemplate::text(std::string_view question, std::string_view answer) const {
    return cat(before, question, after, joint, answer);
}

const PromptTemplate& prompt_template(std::string_view name) {
    static const std::array<PromptTemplate, 3> known = {
        {{"llama2-chat", "[INST] ", " [/INST]", ""}, {"qa", "Question: ", "\nAnswer:", " "}, {"plain", "", "", " "}}};
    std::string names;
    for (const PromptTemplate& form : known) {
        if (form.name == name) return form;
        names += (names.empty() ? "" : ", ") + form.name;
    }
    throw InputError(cat("no prompt template \"", name, "\"; known are ", names));
}

std::vector<std::int32_t> encode_prompt(const Tokenizer& tokenizer, const PromptTemplate& form,
                                        std::string_view question) {
    std::vector<std::int32_t> ids = tokenizer.encode(form.prompt(question));
    ids.insert(ids.begin(), tokenizer.bos_id());
    return ids;
}

Sequence encode_qa(const Tokenizer& tokenizer, const PromptTemplate& form, std::string_view question,
                   std::string_view answer, std::int64_t max_length) {
    check_length(max_length);
    Sequence sequence;
    sequence.ids = framed(tokenizer, form.text(question, answer), max_length);
    // Counted alone, as the benchmark does; the pieces at the border may differ from those in the whole text.
    sequence.first_target = static_cast<std::int64_t>(encode_prompt(tokenizer, form, question).size());
    require_input(sequence.first_target < static_cast<std::int64_t>(sequence.ids.size()), "the question's ",
                  sequence.first_target, " tokens leave no room for an answer in ", max_length,
                  "; shorten it or raise the maximum length");
    return sequence;
}

Sequence encode_text(const Tokenizer& tokenizer, std::string_view text, std::int64_t max_length) {
    check_length(max_length);
    return {framed(tokenizer, text, max_length), 1};
}

}  // namespace uipe::llama
