// The rows of the synthetic world's files as JSON lines. Include in .cpp files only.
#pragma once

#include <string>
#include <vector>

#include "tensor/base/json.h"
#include "unlearn/world/facts.h"

namespace uipe::unlearn::world {

/// question, answer
Json plain_row(const Pair& pair);
/// question, answer, paraphrased_answer, perturbed_answer, paraphrased_question
Json perturbed_row(const PerturbedPair& pair);
/// question, answer, perturbed_answer
Json perturbed_choice_row(const ChoicePair& pair);
/// question, option1 … option4 in a random order, answer
Json option_row(const ChoicePair& pair, tensor::Random& random);
/// text
Json text_row(const std::string& sentences);

/// A folder being filled: counts the rows of each file and keeps the text a tokenizer is to learn.
class Folder {
public:
    explicit Folder(fs::path path) : path_(std::move(path)) {}

    /// Writes `rows` to `file`, one a line.
    void write(const std::string& file, const std::vector<Json>& rows);

    /// Adds the text of `rows`, pairs in the prompt template of Llama-2, to what the tokenizer learns.
    void learn(const std::vector<Json>& rows);

    const fs::path& path() const { return path_; }
    const Json& counts() const { return counts_; }
    const std::vector<std::string>& text() const { return text_; }

private:
    fs::path path_;
    Json counts_ = Json::object();
    std::vector<std::string> text_;
};

}  // namespace uipe::unlearn::world
