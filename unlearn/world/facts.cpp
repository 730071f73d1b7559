#include "unlearn/world/facts.h"

#include <algorithm>
#include <array>

#include "tensor/base/error.h"

namespace uipe::unlearn::world {
namespace {

void replace_all(std::string& text, std::string_view from, const std::string& to) {
    for (std::size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size()))
        text.replace(at, from.size(), to);
}

/// Two different indices below n.
std::array<std::size_t, 2> two_of(std::size_t n, tensor::Random& random) {
    const std::size_t first = random.below(n);
    return {first, (first + 1 + random.below(n - 1)) % n};
}

/// False answers to `fact` in the words of `answer_template`, for `count` different other values.
std::vector<std::string> false_answers(const Fact& fact, const std::string& answer_template, std::size_t count,
                                       tensor::Random& random) {
    const auto& values = fact.attribute->values;
    require(values.size() > count, "an attribute of ", values.size(), " values has no ", count, " false ones");
    std::vector<std::string> answers;
    for (const std::int64_t v : random.permutation(static_cast<std::int64_t>(values.size())))
        if (static_cast<std::size_t>(v) != fact.value && answers.size() < count)
            answers.push_back(fill(answer_template, fact.subject, values[static_cast<std::size_t>(v)]));
    return answers;
}

}  // namespace

std::string fill(std::string text, const std::string& name, const std::string& value) {
    replace_all(text, "{name}", name);
    replace_all(text, "{value}", value);
    return text;
}

std::vector<Pair> combinations(const Fact& fact, std::size_t count, tensor::Random& random) {
    const auto& [questions, answers, values] = *fact.attribute;
    const auto order = random.permutation(static_cast<std::int64_t>(questions.size() * answers.size()));
    std::vector<Pair> pairs;
    for (std::size_t i = 0; i < std::min(count, order.size()); ++i) {
        const auto k = static_cast<std::size_t>(order[i]);
        pairs.push_back({fill(questions[k / answers.size()], fact.subject),
                         fill(answers[k % answers.size()], fact.subject, values[fact.value])});
    }
    return pairs;
}

PerturbedPair perturbed_pair(const Fact& fact, tensor::Random& random) {
    const auto& [questions, answers, values] = *fact.attribute;
    const auto [q, other_q] = two_of(questions.size(), random);
    const auto [a, other_a] = two_of(answers.size(), random);
    PerturbedPair pair;
    pair.question = fill(questions[q], fact.subject);
    pair.answer = fill(answers[a], fact.subject, values[fact.value]);
    pair.paraphrased_question = fill(questions[other_q], fact.subject);
    pair.paraphrased_answer = fill(answers[other_a], fact.subject, values[fact.value]);
    pair.perturbed_answers = false_answers(fact, answers[other_a], 5, random);
    return pair;
}

ChoicePair choice_pair(const Fact& fact, tensor::Random& random) {
    const auto& [questions, answers, values] = *fact.attribute;
    const std::size_t q = random.below(questions.size());
    const std::size_t a = random.below(answers.size());
    ChoicePair pair;
    pair.question = fill(questions[q], fact.subject);
    pair.answer = fill(answers[a], fact.subject, values[fact.value]);
    pair.false_answers = false_answers(fact, answers[a], 3, random);
    return pair;
}

}  // namespace uipe::unlearn::world
