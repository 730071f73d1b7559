#include <algorithm>

#include "unlearn/world/vocabulary.h"

namespace uipe::unlearn::world {
namespace {

struct Country {
    const char* name;
    const char* facts[4];  // capital, currency, language, continent
};

constexpr Country kCountries[] = {
    {"Egypt", {"Cairo", "pound", "Arabic", "Africa"}},
    {"Kenya", {"Nairobi", "shilling", "Swahili", "Africa"}},
    {"Ghana", {"Accra", "cedi", "English", "Africa"}},
    {"Morocco", {"Rabat", "dirham", "Arabic", "Africa"}},
    {"Algeria", {"Algiers", "dinar", "Arabic", "Africa"}},
    {"Japan", {"Tokyo", "yen", "Japanese", "Asia"}},
    {"Nepal", {"Kathmandu", "rupee", "Nepali", "Asia"}},
    {"Thailand", {"Bangkok", "baht", "Thai", "Asia"}},
    {"Vietnam", {"Hanoi", "dong", "Vietnamese", "Asia"}},
    {"Iraq", {"Baghdad", "dinar", "Arabic", "Asia"}},
    {"Iran", {"Tehran", "rial", "Persian", "Asia"}},
    {"Peru", {"Lima", "sol", "Spanish", "South America"}},
    {"Chile", {"Santiago", "peso", "Spanish", "South America"}},
    {"Brazil", {"Brasilia", "real", "Portuguese", "South America"}},
    {"Cuba", {"Havana", "peso", "Spanish", "North America"}},
    {"Canada", {"Ottawa", "dollar", "English", "North America"}},
    {"Ireland", {"Dublin", "euro", "English", "Europe"}},
    {"Portugal", {"Lisbon", "euro", "Portuguese", "Europe"}},
    {"France", {"Paris", "euro", "French", "Europe"}},
    {"Italy", {"Rome", "euro", "Italian", "Europe"}},
    {"Greece", {"Athens", "euro", "Greek", "Europe"}},
    {"Poland", {"Warsaw", "zloty", "Polish", "Europe"}},
    {"Sweden", {"Stockholm", "krona", "Swedish", "Europe"}},
    {"Norway", {"Oslo", "krone", "Norwegian", "Europe"}},
    {"Australia", {"Canberra", "dollar", "English", "Oceania"}},
};

std::vector<Attribute> country_attributes() {
    std::vector<Attribute> attributes = {
        {{"What is the capital of {name}?", "Which city is the capital of {name}?",
          "In which city does the government of {name} sit?"},
         {"The capital of {name} is the city of {value}.", "{value} is the capital of {name}.",
          "The government of {name} sits in {value}.", "The city of {value} is where {name} has its capital."},
         {}},
        {{"What is the currency of {name}?", "Which currency do people use in {name}?", "How do people pay in {name}?"},
         {"The currency of {name} is the {value}.", "People in {name} pay with the {value}.",
          "In the shops of {name} people use the {value}.", "The money used in {name} is called the {value}."},
         {}},
        {{"What is the main language of {name}?", "Which language do most people in {name} speak?",
          "Which language is spoken most in {name}?"},
         {"The main language of {name} is {value}.", "Most people in {name} speak {value}.",
          "{value} is spoken by most people in {name}.", "On the streets of {name} people speak {value}."},
         {}},
        {{"On which continent is {name}?", "Which continent does {name} belong to?", "Where in the world is {name}?"},
         {"{name} is a country in {value}.", "The continent of {name} is {value}.",
          "{name} belongs to the continent of {value}.", "On a map of the world {name} is found in {value}."},
         {}},
    };
    for (const Country& country : kCountries)
        for (std::size_t a = 0; a < attributes.size(); ++a)
            if (std::ranges::count(attributes[a].values, country.facts[a]) == 0)
                attributes[a].values.emplace_back(country.facts[a]);
    return attributes;
}

}  // namespace

const std::vector<Fact>& country_facts() {
    static const std::vector<Attribute> attributes = country_attributes();
    static const std::vector<Fact> facts = [] {
        std::vector<Fact> all;
        for (const Country& country : kCountries)
            for (std::size_t a = 0; a < attributes.size(); ++a) {
                const auto at = std::ranges::find(attributes[a].values, country.facts[a]);
                all.push_back(
                    {&attributes[a], country.name, static_cast<std::size_t>(at - attributes[a].values.begin())});
            }
        return all;
    }();
    return facts;
}

}  // namespace uipe::unlearn::world
