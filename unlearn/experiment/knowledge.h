// The data of the related-knowledge experiment: facts to forget, K1, and facts from which they can be inferred, K2.
#pragma once

#include "unlearn/experiment/cache.h"

namespace uipe::unlearn {

/// Where the sets come from. Row i of K2 implies row i of K1.
struct KnowledgeFiles {
    fs::path k1, k2;           // rows as in forgetXX_perturbed
    fs::path retain;           // rows of which utility is taken, as in retain_perturbed
    fs::path general;          // folder of real_authors_perturbed and world_facts_perturbed
    std::size_t a_person = 0;  // rows of one person, in a row; 0: not known
};

/// InputError unless both files of facts are whole, have as many rows, and at least 3, for each to have an
/// unrelated one.
void check_knowledge(const fs::path& k1, const fs::path& k2);

/// Writes a folder of sets in TOFU's layout, whose forget sets are "forget_k1" and "forget_k2", and "forget_both" for
/// training on. InputError when a set is missing or damaged, or as check_knowledge.
void write_knowledge(const KnowledgeFiles& files, const fs::path& folder);

/// What a model makes of one of those sets, beside what the log's summary says.
struct Recall {
    double right = 0;        // share of rows whose paraphrased answer is likelier, by token, than each false one
    double chance = 0;       // of that, were all answers alike
    double probability = 0;  // mean p^(1/tokens) of the paraphrased answer
};
/// From the log of an evaluation; rows without false answers are an InputError.
Recall recall_of(const fs::path& log);

}  // namespace uipe::unlearn
