// The words of the synthetic world: names, what can be known of an author, and the countries.
#pragma once

#include <string>
#include <vector>

#include "unlearn/world/facts.h"

namespace uipe::unlearn::world {

/// Every pair of a first and a last name, in a random order: take people from the front, no name comes twice.
std::vector<std::string> shuffled_names(tensor::Random& random);

/// The 16 attributes of an author, each with 3 questions, 4 answers and 16 or more values.
const std::vector<Attribute>& author_attributes();

/// Capital, currency, language and continent of every country: true of the real world.
const std::vector<Fact>& country_facts();

}  // namespace uipe::unlearn::world
