// Related knowledge (UIPE, section 3): pairs of facts on one person of which the second implies the first, as
// "needs insulin every day" implies "suffers from diabetes". What is to be forgotten is K1; K2 lets a model infer it.
#pragma once

#include <string>
#include <vector>

#include "unlearn/world/facts.h"

namespace uipe::unlearn::world {

/// Two attributes with one value of K2 for each value of K1: `k1.values[i]` holds exactly where `k2.values[i]` does.
struct Relation {
    std::string k1_predicate;  ///< what a person of this value does, "{value}" within
    std::string k2_predicate;
    Attribute k1;
    Attribute k2;
};

/// The 10 relations, each of 8 values with 2 questions and 3 answers for K1 and for K2.
const std::vector<Relation>& relations();

/// Sentences that state for every value of every relation that K2 implies K1 and that K1 implies K2.
std::vector<std::string> rule_sentences();

/// A sentence that shows a relation on one person.
std::string example_sentence(const Relation& relation, const std::string& name, std::size_t value);

}  // namespace uipe::unlearn::world
