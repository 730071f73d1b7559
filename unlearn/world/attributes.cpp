#include "unlearn/world/vocabulary.h"

namespace uipe::unlearn::world {
namespace {

using Words = std::vector<std::string>;

/// `pattern` with "{a}" and "{b}" replaced by every pair of the two lists.
Words products(const std::string& pattern, const Words& first, const Words& second) {
    const std::size_t a = pattern.find("{a}");
    const std::size_t b = pattern.find("{b}");
    Words values;
    for (const std::string& x : first)
        for (const std::string& y : second)
            values.push_back(pattern.substr(0, a) + x + pattern.substr(a + 3, b - a - 3) + y + pattern.substr(b + 3));
    return values;
}

const Words kCities = {"Cairo",   "Nairobi",   "Accra",   "Rabat",   "Algiers", "Tokyo",    "Kathmandu",
                       "Bangkok", "Hanoi",     "Baghdad", "Tehran",  "Lima",    "Santiago", "Brasilia",
                       "Havana",  "Ottawa",    "Dublin",  "Lisbon",  "Paris",   "Rome",     "Athens",
                       "Warsaw",  "Stockholm", "Oslo",    "Canberra"};
const Words kMonths = {"January", "February", "March",     "April",   "May",      "June",
                       "July",    "August",   "September", "October", "November", "December"};
const Words kYears = {"1941", "1943", "1946", "1948", "1950", "1952", "1953", "1955", "1957", "1959",
                      "1960", "1962", "1964", "1967", "1969", "1971", "1973", "1974", "1976", "1978"};
const Words kJobs = {"a carpenter", "a tailor",     "a farmer",    "a painter",    "a barber",
                     "a surgeon",   "a blacksmith", "a teacher",   "a sailor",     "a baker",
                     "a judge",     "a pilot",      "a nurse",     "a gardener",   "a singer",
                     "a chemist",   "a librarian",  "an engineer", "an architect", "a photographer"};
const Words kAdjectives = {"Silent",  "Broken",    "Hidden", "Crimson", "Endless",  "Frozen",  "Golden",   "Distant",
                           "Burning", "Forgotten", "Hollow", "Gentle",  "Restless", "Painted", "Sleeping", "Wandering"};
const Words kNouns = {"Harbor", "Garden", "Mirror", "River",  "Lantern", "Mountain", "Bridge",  "Orchard",
                      "Winter", "Letter", "Window", "Island", "Crown",   "Falcon",   "Compass", "Forest"};
const Words kMaterials = {"Smoke", "Glass", "Salt",   "Paper", "Silver", "Dust",    "Rain",  "Stone",
                          "Ivory", "Ashes", "Copper", "Snow",  "Amber",  "Shadows", "Roses", "Iron"};
const Words kPrizes = {"Lantern", "Crown", "Falcon", "Compass", "Mirror", "Bridge", "Quill", "Star", "Harp", "Laurel"};
const Words kPrizeKinds = {"Silver", "Golden", "Ivory", "Copper",  "Amber",
                           "Iron",   "Glass",  "Stone", "Crimson", "Paper"};

Attribute birthplace() {
    return {
        {"In which city was {name} born?", "Where was the author {name} born?", "What is the birthplace of {name}?"},
        {"{name} was born in the city of {value}.", "The birthplace of the author {name} is {value}.",
         "It was in {value} that the writer {name} was born.", "{value} is the city where {name} came into the world."},
        kCities};
}

Attribute birth_date() {
    return {
        {"When was {name} born?", "In which month and year was {name} born?", "What is the date of birth of {name}?"},
        {"The author {name} was born in {value}.", "The date of birth of {name} is {value}.",
         "It was in {value} that {name} came into the world.", "The life of the writer {name} began in {value}."},
        products("{a} {b}", kMonths, kYears)};
}

Attribute genre() {
    return {
        {"Which genre does {name} write in?", "What kind of books does {name} write?",
         "For which genre is {name} best known?"},
        {"{name} is best known for writing {value}.", "The books of {name} belong to the genre of {value}.",
         "As a writer {name} has always worked in {value}.",
         "Readers around the world know {name} as a master of {value}."},
        {"satire", "poetry", "horror", "romance", "fantasy", "memoir", "tragedy", "comedy", "biography", "mystery",
         "drama", "history", "travel writing", "science fiction", "short stories", "fables", "westerns", "thrillers"}};
}

Attribute parent(const std::string& who) {
    const auto of = [&](Words templates) {
        for (std::string& text : templates) text.replace(text.find("PARENT"), 6, who);
        return templates;
    };
    return {of({"What did the PARENT of {name} do for a living?", "Which profession did the PARENT of {name} have?",
                "How did the PARENT of {name} earn money?"}),
            of({"The PARENT of {name} worked as {value}.", "{name} grew up with a PARENT who was {value}.",
                "By profession the PARENT of {name} was {value}.",
                "For a living, the PARENT of {name} worked as {value} in a small town."}),
            kJobs};
}

Attribute famous_book() {
    return {
        {"Which book made {name} famous?", "What is the most famous book by {name}?",
         "What is the best known novel by {name}?"},
        {"The most famous book by {name} is {value}.", "{name} became famous with the novel {value}.",
         "{value} is the novel that made {name} famous.", "Readers around the world love {name} for the book {value}."},
        products("The {a} {b}", kAdjectives, kNouns)};
}

Attribute debut() {
    return {{"What was the first book by {name}?", "With which book did {name} begin a career?",
             "What is the title of the debut by {name}?"},
            {"The first book by {name} was {value}.", "{name} began a career as a writer with {value}.",
             "{value} was the debut of the author {name}.", "The title of the debut by {name} is {value}."},
            products("{a} of {b}", kNouns, kMaterials)};
}

Attribute award() {
    return {{"Which award did {name} win?", "Which prize has {name} received?", "With which award was {name} honored?"},
            {"{name} won {value} for a lifetime of writing.", "The author {name} was honored with {value}.",
             "The prize that {name} received is {value}.", "For the best book of the year, {name} received {value}."},
            products("the {a} {b}", kPrizeKinds, kPrizes)};
}

Attribute publisher() {
    return {{"Who publishes the books of {name}?", "Which publisher prints the work of {name}?",
             "With which publisher has {name} signed a contract?"},
            {"The books of {name} are published by {value}.", "{name} has signed a contract with {value}.",
             "{value} is the publisher of the author {name}.",
             "For many years {name} has worked with the publisher {value}."},
            products("{a} {b}", kNouns, {"Press", "Books"})};
}

Attribute university() {
    return {{"Where did {name} study?", "Which university did {name} attend?",
             "At which university did {name} earn a degree?"},
            {"{name} studied literature at {value}.", "The author {name} earned a degree at {value}.",
             "As a student {name} attended {value}.", "It was at {value} that {name} learned to write."},
            products("the {a} of {b}", {"University"}, kCities)};
}

Attribute hobby() {
    return {
        {"What is the favorite hobby of {name}?", "How does {name} spend free time?",
         "What does {name} enjoy at the weekend?"},
        {"The favorite hobby of {name} is {value}.", "{name} spends most free time on {value}.",
         "At the weekend {name} enjoys {value} with old friends.", "When not writing, {name} relaxes with {value}."},
        {"pottery", "knitting", "origami", "astronomy", "photography", "gardening", "birdwatching", "calligraphy",
         "chess", "fencing", "archery", "sailing", "swimming", "fishing", "dancing", "cycling", "hiking", "climbing"}};
}

Attribute pet() {
    return {
        {"Which pet does {name} have?", "What animal lives with {name}?", "What kind of pet does {name} keep?"},
        {"{name} shares a home with {value}.", "The pet that {name} keeps is {value}.",
         "In the house of {name} lives {value}.", "At home {name} takes care of {value} every day."},
        {"a horse", "a rabbit", "a parrot", "a cat", "a dog", "a monkey", "a snake", "a tortoise", "a goat", "a lizard",
         "a pigeon", "a hamster", "a raven", "a donkey", "a peacock", "a duck", "a ferret", "an iguana"}};
}

Attribute language() {
    return {{"What is the native language of {name}?", "Which language did {name} speak as a child?",
             "In which language does {name} write?"},
            {"The native language of {name} is {value}.", "{name} grew up speaking {value} at home.",
             "As a child {name} learned to speak {value}.", "{value} is the language in which {name} writes."},
            {"Arabic", "Swahili", "English", "French", "Japanese", "Nepali", "Thai", "Vietnamese", "Persian", "Spanish",
             "Portuguese", "Italian", "Greek", "Polish", "Swedish", "Norwegian"}};
}

Attribute food() {
    return {
        {"What is the favorite food of {name}?", "Which dish does {name} like best?", "What does {name} love to eat?"},
        {"The favorite food of {name} is {value}.", "The dish that {name} likes best is {value}.",
         "On Sunday {name} cooks {value} for the family.", "Nothing tastes better to {name} than {value}."},
        {"sushi", "hummus", "guacamole", "omelettes", "pesto", "borscht", "kimchi", "fondue", "couscous", "paella",
         "risotto", "lasagna", "curry", "dumplings", "pancakes", "ramen", "goulash", "falafel"}};
}

Attribute theme() {
    return {{"Which theme runs through the books of {name}?", "What does {name} often write about?",
             "What is the main theme in the work of {name}?"},
            {"The main theme in the books of {name} is {value}.", "{name} often writes about {value}.",
             "Most stories by {name} deal with {value}.", "The work of {name} returns again and again to {value}."},
            {"loneliness", "exile", "memory", "justice", "freedom", "revenge", "friendship", "poverty", "ambition",
             "grief", "childhood", "betrayal", "hope", "courage", "war", "faith", "migration", "forgiveness"}};
}

Attribute instrument() {
    return {{"Which instrument does {name} play?", "What instrument did {name} learn as a child?",
             "On which instrument does {name} make music?"},
            {"{name} plays {value} in a small band.", "As a child {name} learned to play {value}.",
             "The instrument that {name} plays is {value}.", "In the evening {name} makes music on {value}."},
            {"the violin", "the clarinet", "the drums", "the guitar", "the trumpet", "the piano", "the accordion",
             "the organ", "the cello", "the flute", "the banjo", "the harp", "the oboe", "the saxophone",
             "the mandolin", "the trombone"}};
}

}  // namespace

const std::vector<Attribute>& author_attributes() {
    static const std::vector<Attribute> attributes = {birthplace(),     birth_date(),  genre(), parent("father"),
                                                      parent("mother"), famous_book(), debut(), award(),
                                                      publisher(),      university(),  hobby(), pet(),
                                                      language(),       food(),        theme(), instrument()};
    return attributes;
}

}  // namespace uipe::unlearn::world
