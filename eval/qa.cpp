#include "eval/qa.h"

#include "tensor/base/error.h"
#include "tensor/base/json.h"

namespace uipe::eval {
namespace {

std::string text(const Json& value, const char* name, const std::string& place) {
    require_input(value.is_string(), place, ": `", name, "` is of type ", value.type_name(), ", a string is needed");
    require_input(value != "", place, ": `", name, "` is empty; fill it in or remove the row");
    return value.get<std::string>();
}

const Json& field(const Json& row, const char* name, const char* cure, const std::string& place) {
    const auto at = row.find(name);
    require_input(at != row.end(), place, ": no field `", name, "`; ", cure);
    return *at;
}

constexpr const char* perturbed_cure = "give a _perturbed set of TOFU";

}  // namespace

std::vector<QaRow> read_qa(const fs::path& path, QaNeeds needs) {
    std::vector<QaRow> rows;
    for_each_row(path, [&](const Json& json, const std::string& place) {
        require_input(json.is_object(), place, ": a row is of type ", json.type_name(), ", an object is needed");
        const auto string_field = [&](const char* name, const char* cure) {
            return text(field(json, name, cure, place), name, place);
        };
        constexpr const char* cure = "every row needs `question` and `answer`";
        QaRow row{string_field("question", cure), string_field("answer", cure), {}, {}};
        if (needs.paraphrase) row.paraphrased_answer = string_field("paraphrased_answer", perturbed_cure);
        if (needs.perturbed > 0) {
            const Json& list = field(json, "perturbed_answer", perturbed_cure, place);
            require_input(list.is_array(), place, ": `perturbed_answer` is of type ", list.type_name(),
                          ", an array is needed");
            require_input(list.size() == needs.perturbed, place, ": the row has ", list.size(), " perturbed answers, ",
                          needs.perturbed, " are needed; ", perturbed_cure,
                          " (author sets have 5, real authors and world facts 3)");
            for (const Json& answer : list) row.perturbed_answers.push_back(text(answer, "perturbed_answer", place));
        }
        rows.push_back(std::move(row));
    });
    require_input(!rows.empty(), path.string(), ": the file holds no rows; give a set of questions and answers");
    return rows;
}

}  // namespace uipe::eval
