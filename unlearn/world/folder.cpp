#include "unlearn/world/folder.h"

#include <algorithm>

#include "tensor/base/error.h"

namespace uipe::unlearn::world {

Json plain_row(const Pair& pair) { return {{"question", pair.question}, {"answer", pair.answer}}; }

Json perturbed_row(const PerturbedPair& pair) {
    return {{"question", pair.question},
            {"answer", pair.answer},
            {"paraphrased_answer", pair.paraphrased_answer},
            {"perturbed_answer", pair.perturbed_answers},
            {"paraphrased_question", pair.paraphrased_question}};
}

Json perturbed_choice_row(const ChoicePair& pair) {
    return {{"question", pair.question}, {"answer", pair.answer}, {"perturbed_answer", pair.false_answers}};
}

Json option_row(const ChoicePair& pair, tensor::Random& random) {
    std::vector<std::string> options = pair.false_answers;
    options.insert(options.begin() + static_cast<std::ptrdiff_t>(random.below(options.size() + 1)), pair.answer);
    Json row = {{"question", pair.question}};
    for (std::size_t i = 0; i < options.size(); ++i) row[cat("option", i + 1)] = options[i];
    row["answer"] = pair.answer;
    return row;
}

Json text_row(const std::string& sentences) { return {{"text", sentences}}; }

void Folder::write(const std::string& file, const std::vector<Json>& rows) {
    std::string lines;
    for (const Json& row : rows) lines += row.dump() + "\n";
    write_file(path_ / file, lines);
    counts_[file] = rows.size();
}

void Folder::learn(const std::vector<Json>& rows) {
    const auto value = [](const Json& row, const char* key) { return row.at(key).get_ref<const std::string&>(); };
    for (const Json& row : rows)
        text_.push_back(row.contains("text")
                            ? value(row, "text")
                            : cat("[INST] ", value(row, "question"), " [/INST]", value(row, "answer")));
}

}  // namespace uipe::unlearn::world
