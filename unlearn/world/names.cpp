#include "unlearn/world/vocabulary.h"

namespace uipe::unlearn::world {
namespace {

constexpr const char* kFirst[] = {"Amara", "Bela",  "Chidi",  "Dalia", "Emeka",  "Farid", "Greta",  "Hana",   "Idris",
                                  "Jonas", "Kavya", "Leila",  "Mateo", "Nadia",  "Omar",  "Priya",  "Rosa",   "Soren",
                                  "Tariq", "Uma",   "Viktor", "Wanda", "Ximena", "Yuki",  "Zara",   "Anders", "Bruno",
                                  "Clara", "Diego", "Elif",   "Freya", "Goran",  "Hugo",  "Ingrid", "Jamal",  "Kenji",
                                  "Lucia", "Milan", "Noor",   "Olga",  "Pavel",  "Rania", "Selma",  "Tomas"};

constexpr const char* kLast[] = {
    "Abara",  "Bianchi",  "Castro", "Dimitrov", "Eriksen", "Fontaine", "Gupta",   "Haddad",   "Ivanov",
    "Jensen", "Kimura",   "Lopez",  "Mensah",   "Novak",   "Okafor",   "Petrov",  "Quiroga",  "Rahman",
    "Silva",  "Tanaka",   "Usman",  "Vargas",   "Weber",   "Yilmaz",   "Zapata",  "Almeida",  "Banerjee",
    "Cohen",  "Demir",    "Farkas", "Ferreira", "Hoffman", "Iqbal",    "Jimenez", "Kowalski", "Lindgren",
    "Moreau", "Nakamura", "Orlov",  "Popescu",  "Rossi",   "Suzuki",   "Toure",   "Walsh"};

}  // namespace

std::vector<std::string> shuffled_names(tensor::Random& random) {
    std::vector<std::string> names;
    for (const std::int64_t pair : random.permutation(std::ssize(kFirst) * std::ssize(kLast)))
        names.push_back(std::string(kFirst[pair / std::ssize(kLast)]) + " " + kLast[pair % std::ssize(kLast)]);
    return names;
}

}  // namespace uipe::unlearn::world
