// Question-answer sets as TOFU publishes them: JSON lines or JSON arrays.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "tensor/base/file.h"

namespace uipe::eval {

struct QaRow {
    std::string question, answer;
    std::string paraphrased_answer;  // empty when the set has none or it was not asked for
    std::vector<std::string> perturbed_answers;
};

/// What a reader needs of each row beside question and answer. What is not needed is not read.
struct QaNeeds {
    std::size_t perturbed = 0;  // exactly so many perturbed answers
    bool paraphrase = false;
};
inline constexpr QaNeeds answers_only{};
inline constexpr QaNeeds author_rows{5, true};  // forgetXX_perturbed, retain_perturbed
inline constexpr QaNeeds world_rows{3, false};  // real_authors_perturbed, world_facts_perturbed

/// The rows of a set, in order; at least one.
/// InputError names file and row: no object, a field that is missing, not a string or empty, or another number of
/// perturbed answers than needed.
std::vector<QaRow> read_qa(const fs::path& path, QaNeeds needs);

}  // namespace uipe::eval
