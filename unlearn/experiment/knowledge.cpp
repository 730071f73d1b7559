#include "unlearn/experiment/knowledge.h"

#include <algorithm>

#include "eval/evaluate.h"
#include "tensor/base/error.h"
#include "tensor/base/json.h"

namespace uipe::unlearn {
namespace {

std::string lines_of(const std::vector<eval::QaRow>& rows) {
    std::string out;
    for (const eval::QaRow& row : rows) {
        Json json{{"question", row.question}, {"answer", row.answer}};
        if (!row.paraphrased_answer.empty()) json["paraphrased_answer"] = row.paraphrased_answer;
        json["perturbed_answer"] = row.perturbed_answers;
        out += json.dump() + "\n";
    }
    return out;
}

struct Facts {
    std::vector<eval::QaRow> k1, k2;
};

Facts read_facts(const fs::path& k1, const fs::path& k2) {
    Facts out{eval::read_qa(k1, eval::author_rows), eval::read_qa(k2, eval::author_rows)};
    require_input(out.k1.size() == out.k2.size(), k1.string(), " has ", out.k1.size(), " rows and ", k2.string(), " ",
                  out.k2.size(), "; row i of K2 is to imply row i of K1");
    require_input(out.k1.size() >= 3, k1.string(), " has ", out.k1.size(),
                  " rows; with fewer than 3 there is no unrelated row to compare");
    return out;
}

}  // namespace

void check_knowledge(const fs::path& k1, const fs::path& k2) { read_facts(k1, k2); }

void write_knowledge(const KnowledgeFiles& files, const fs::path& folder) {
    const auto [k1, k2] = read_facts(files.k1, files.k2);
    write_file(folder / "forget_k1_perturbed.json", lines_of(k1));
    write_file(folder / "forget_k2_perturbed.json", lines_of(k2));
    write_file(folder / "forget_both.json", lines_of(k1) + lines_of(k2));
    write_file(folder / "retain_perturbed.json", lines_of(eval::read_qa(files.retain, eval::author_rows)));
    for (const char* set : {"real_authors_perturbed", "world_facts_perturbed"})
        write_file(folder / cat(set, ".json"),
                   lines_of(eval::read_qa(eval::set_file(files.general, set), eval::world_rows)));
}

Recall recall_of(const fs::path& log) {
    const eval::EvalLog read = eval::read_log(log);
    require_input(!read.forget.rows.empty(), log.string(), ": has no forget set");
    Recall out;
    for (const eval::RowScore& row : read.forget.rows) {
        require_input(row.paraphrase.has_value() && !row.perturbed.empty(), log.string(),
                      ": has rows without a paraphrased or false answers");
        out.right += std::all_of(row.perturbed.begin(), row.perturbed.end(), [&](const eval::AnswerScore& wrong) {
            return row.paraphrase->avg_loss < wrong.avg_loss;
        });
        out.chance += 1.0 / (1.0 + static_cast<double>(row.perturbed.size()));
        out.probability += row.paraphrase->probability();
    }
    const auto n = static_cast<double>(read.forget.rows.size());
    return {out.right / n, out.chance / n, out.probability / n};
}

}  // namespace uipe::unlearn
