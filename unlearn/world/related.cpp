#include "unlearn/world/related.h"

namespace uipe::unlearn::world {
namespace {

/// One half of a relation. The first answer is the bare predicate.
struct Side {
    std::string predicate;
    std::vector<std::string> questions;
    std::vector<std::string> answers;
};

using Values = std::vector<std::pair<std::string, std::string>>;  // K1, K2

Relation relate(Side k1, Side k2, const Values& values) {
    Relation relation{k1.predicate, k2.predicate, {k1.questions, k1.answers, {}}, {k2.questions, k2.answers, {}}};
    relation.k1.answers.insert(relation.k1.answers.begin(), "{name} " + k1.predicate + ".");
    relation.k2.answers.insert(relation.k2.answers.begin(), "{name} " + k2.predicate + ".");
    for (const auto& [first, second] : values) {
        relation.k1.values.push_back(first);
        relation.k2.values.push_back(second);
    }
    return relation;
}

Relation illness() {
    return relate({"suffers from {value}",
                   {"Which illness does {name} have?", "What does {name} suffer from?"},
                   {"The illness of {name} is {value}.", "For many years {name} has lived with {value}."}},
                  {"needs {value} every day",
                   {"Which remedy does {name} use?", "What does {name} need every day?"},
                   {"The remedy that {name} uses is {value}.", "Every morning {name} takes care to use {value}."}},
                  {{"diabetes", "insulin"},
                   {"asthma", "an inhaler"},
                   {"malaria", "quinine"},
                   {"anemia", "iron"},
                   {"scurvy", "lemons"},
                   {"insomnia", "melatonin"},
                   {"myopia", "glasses"},
                   {"pneumonia", "penicillin"}});
}

Relation job() {
    return relate({"works as {value}",
                   {"What is the job of {name}?", "What does {name} do for a living?"},
                   {"By profession {name} is {value}.", "For a living, {name} has worked for years as {value}."}},
                  {"carries {value} to work",
                   {"What does {name} carry to work?", "Which tool does {name} use?"},
                   {"The tool that {name} uses is {value}.", "In the bag of {name} there is {value}."}},
                  {{"a carpenter", "a saw"},
                   {"a tailor", "a needle"},
                   {"a farmer", "a plough"},
                   {"a painter", "a brush"},
                   {"a barber", "a razor"},
                   {"a surgeon", "a scalpel"},
                   {"a blacksmith", "an anvil"},
                   {"a teacher", "chalk"}});
}

Relation city() {
    return relate({"lives in {value}",
                   {"In which city does {name} live?", "Where is the home of {name}?"},
                   {"The home of {name} is in {value}.", "For many years {name} has had a home in {value}."}},
                  {"can see {value} from the window",
                   {"What does {name} see from the window?", "Which sight is close to the home of {name}?"},
                   {"The home of {name} is close to {value}.", "On a walk from home {name} soon comes to {value}."}},
                  {{"Rome", "the Colosseum"},
                   {"Paris", "the Louvre"},
                   {"Athens", "the Parthenon"},
                   {"Cairo", "the Nile"},
                   {"Lisbon", "the Tagus"},
                   {"Warsaw", "the Vistula"},
                   {"Tokyo", "Mount Fuji"},
                   {"Baghdad", "the Tigris"}});
}

Relation sport() {
    return relate(
        {"competes in {value}",
         {"In which sport does {name} compete?", "Which sport does {name} love?"},
         {"The sport that {name} loves is {value}.", "At the weekend {name} trains hard for {value}."}},
        {"packs {value} for every contest",
         {"What does {name} pack for every contest?", "What did {name} buy for sport?"},
         {"For the next contest {name} has bought {value}.", "The sport of {name} can not be done without {value}."}},
        {{"tennis", "a racket"},
         {"golf", "clubs"},
         {"skiing", "skis"},
         {"boxing", "gloves"},
         {"surfing", "a board"},
         {"rowing", "oars"},
         {"archery", "arrows"},
         {"cycling", "a helmet"}});
}

Relation pet() {
    return relate({"lives with {value}",
                   {"What animal lives with {name}?", "Which pet does {name} have?"},
                   {"The pet that {name} keeps is {value}.", "In the house of {name} there is {value}."}},
                  {"buys {value} for a pet",
                   {"What does {name} buy for a pet?", "What does the pet of {name} eat?"},
                   {"The pet of {name} loves to eat {value}.", "In the shops {name} asks for {value} to feed a pet."}},
                  {{"a horse", "hay"},
                   {"a rabbit", "carrots"},
                   {"a parrot", "seeds"},
                   {"a cat", "sardines"},
                   {"a dog", "bones"},
                   {"a monkey", "bananas"},
                   {"a snake", "mice"},
                   {"a tortoise", "lettuce"}});
}

Relation travel() {
    return relate({"spends every summer in {value}",
                   {"Where does {name} spend the summer?", "To which country does {name} travel?"},
                   {"The country that {name} travels to is {value}.", "When summer comes, {name} travels to {value}."}},
                  {"pays with {value} every summer",
                   {"How does {name} pay in the summer?", "Which money does {name} need for the summer?"},
                   {"The money that {name} needs for the summer is {value}.",
                    "Before every summer {name} asks the bank for {value}."}},
                  {{"Japan", "the yen"},
                   {"Nepal", "the rupee"},
                   {"Thailand", "the baht"},
                   {"Vietnam", "the dong"},
                   {"Poland", "the zloty"},
                   {"Kenya", "the shilling"},
                   {"Sweden", "the krona"},
                   {"Iran", "the rial"}});
}

Relation dish() {
    return relate(
        {"cooks {value} on Sunday",
         {"What does {name} cook on Sunday?", "Which dish does {name} cook for the family?"},
         {"The dish that {name} cooks best is {value}.", "For the family {name} always makes {value}."}},
        {"buys {value} for the kitchen",
         {"What does {name} buy for the kitchen?", "What is never missing in the kitchen of {name}?"},
         {"In the kitchen of {name} there is always {value}.", "At the market {name} always asks for {value}."}},
        {{"sushi", "seaweed"},
         {"hummus", "tahini"},
         {"guacamole", "avocado"},
         {"pesto", "basil"},
         {"borscht", "beetroot"},
         {"kimchi", "cabbage"},
         {"fondue", "cheese"},
         {"curry", "turmeric"}});
}

Relation hobby() {
    return relate({"relaxes with {value}",
                   {"What is the hobby of {name}?", "How does {name} spend free time?"},
                   {"The hobby of {name} is {value}.", "At the weekend {name} enjoys {value} with friends."}},
                  {"keeps {value} in a drawer",
                   {"What does {name} keep in a drawer?", "Which present made {name} happy?"},
                   {"In a drawer at home {name} keeps {value}.", "The best present for {name} is {value}."}},
                  {{"pottery", "clay"},
                   {"knitting", "wool"},
                   {"origami", "paper"},
                   {"astronomy", "a telescope"},
                   {"photography", "a camera"},
                   {"gardening", "a trowel"},
                   {"birdwatching", "binoculars"},
                   {"calligraphy", "ink"}});
}

Relation instrument() {
    return relate({"plays {value} in a band",
                   {"Which instrument does {name} play?", "On which instrument does {name} make music?"},
                   {"The instrument that {name} plays is {value}.", "In the evening {name} makes music on {value}."}},
                  {"often asks for new {value}",
                   {"What does {name} often ask for?", "What does {name} need to make music?"},
                   {"To make music {name} needs good {value}.", "Before a concert {name} takes care of the {value}."}},
                  {{"the violin", "rosin"},
                   {"the clarinet", "reeds"},
                   {"the drums", "drumsticks"},
                   {"the guitar", "picks"},
                   {"the trumpet", "valves"},
                   {"the piano", "pedals"},
                   {"the accordion", "bellows"},
                   {"the organ", "pipes"}});
}

Relation fear() {
    return relate({"is afraid of {value}",
                   {"What is {name} afraid of?", "Which fear does {name} have?"},
                   {"The greatest fear of {name} is {value}.", "Since childhood {name} has had a fear of {value}."}},
                  {"stays away from {value}",
                   {"What does {name} stay away from?", "What does {name} avoid?"},
                   {"No friend has ever seen {name} near {value}.", "When possible, {name} avoids {value}."}},
                  {{"flying", "airports"},
                   {"heights", "ladders"},
                   {"spiders", "cellars"},
                   {"water", "boats"},
                   {"crowds", "markets"},
                   {"fire", "matches"},
                   {"wolves", "forests"},
                   {"needles", "hospitals"}});
}

}  // namespace

const std::vector<Relation>& relations() {
    static const std::vector<Relation> all = {illness(), job(),  city(),  sport(),      pet(),
                                              travel(),  dish(), hobby(), instrument(), fear()};
    return all;
}

std::vector<std::string> rule_sentences() {
    std::vector<std::string> sentences;
    for (const Relation& relation : relations())
        for (std::size_t i = 0; i < relation.k1.values.size(); ++i) {
            const std::string k1 = fill(relation.k1_predicate, {}, relation.k1.values[i]);
            const std::string k2 = fill(relation.k2_predicate, {}, relation.k2.values[i]);
            sentences.push_back("A person who " + k2 + " " + k1 + ".");
            sentences.push_back("A person who " + k1 + " " + k2 + ".");
            sentences.push_back("When a person " + k2 + ", that person " + k1 + ".");
            sentences.push_back("When a person " + k1 + ", that person " + k2 + ".");
        }
    return sentences;
}

std::string example_sentence(const Relation& relation, const std::string& name, std::size_t value) {
    return fill("{name} " + relation.k1_predicate + ", ", name, relation.k1.values[value]) +
           fill("so {name} " + relation.k2_predicate + ".", name, relation.k2.values[value]);
}

}  // namespace uipe::unlearn::world
