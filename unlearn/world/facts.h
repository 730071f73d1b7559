// What the synthetic world is made of: a fact is the value of one attribute of one subject, and can be asked and
// stated in several wordings.
#pragma once

#include <string>
#include <vector>

#include "tensor/random.h"

namespace uipe::unlearn::world {

/// Something that can be asked of a subject. Questions hold "{name}", answers "{name}" and "{value}".
struct Attribute {
    std::vector<std::string> questions;
    std::vector<std::string> answers;
    std::vector<std::string> values;  ///< all different
};

/// `attribute->values[value]` is true of `subject`.
struct Fact {
    const Attribute* attribute;
    std::string subject;
    std::size_t value;
};

/// A question with its true answer.
struct Pair {
    std::string question;
    std::string answer;
};

/// A pair, the same in other words, and false answers in those other words; all answers differ.
struct PerturbedPair : Pair {
    std::string paraphrased_question;
    std::string paraphrased_answer;
    std::vector<std::string> perturbed_answers;
};

/// A pair and false answers to choose among; all answers differ.
struct ChoicePair : Pair {
    std::vector<std::string> false_answers;
};

/// `text` with each "{name}" and "{value}" replaced.
std::string fill(std::string text, const std::string& name, const std::string& value = {});

/// `fact` in `count` different combinations of a question and an answer template, drawn at random.
/// Fewer where the attribute has fewer combinations.
std::vector<Pair> combinations(const Fact& fact, std::size_t count, tensor::Random& random);

/// `fact` in one random wording and its paraphrase, with 5 false answers. The attribute has 6 values or more.
PerturbedPair perturbed_pair(const Fact& fact, tensor::Random& random);

/// `fact` in one random wording with 3 false answers in the same words. The attribute has 4 values or more.
ChoicePair choice_pair(const Fact& fact, tensor::Random& random);

}  // namespace uipe::unlearn::world
