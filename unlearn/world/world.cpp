#include "unlearn/world/world.h"

#include <algorithm>
#include <cmath>

#include "llama/tokenizer_trainer.h"
#include "tensor/base/error.h"
#include "unlearn/world/folder.h"
#include "unlearn/world/related.h"
#include "unlearn/world/vocabulary.h"

namespace uipe::unlearn {
namespace {

using tensor::Random;
using namespace world;
using Facts = std::vector<Fact>;
using Rows = std::vector<Json>;

constexpr std::size_t kRetainSample = 400;    // rows of retain_perturbed, as in TOFU
constexpr std::size_t kRealAuthors = 100;     // rows of real_authors, as in TOFU
constexpr std::size_t kRelatedSubjects = 12;  // people with a K1 and a K2 for every relation
constexpr std::size_t kRelatedWordings = 4;   // wordings of each of their facts
constexpr std::size_t kRelatedRetained = 20;  // of those people, on whom it is tested what was kept
constexpr std::size_t kSentencesPerText = 4;  // of a plain text on one person or country

/// One stream of random numbers for each part, so that an option of one part leaves the draws of the others alone.
enum Stream : std::uint64_t {
    kNames,
    kAuthors,
    kHoldout,
    kPeople,
    kPretraining,
    kRetain,
    kChoices,
    kRelated,
    kShown,
    kRetained
};

struct Split {
    std::string forget_percent;
    std::string retain_percent;
    std::size_t authors;  // forgotten, the last ones
};

std::vector<Split> splits(const WorldOptions& options) {
    const auto share = [&](double percent) {
        return static_cast<std::size_t>(std::max(1L, std::lround(options.authors * percent / 100)));
    };
    return {{"01", "99", share(1)}, {"05", "95", share(5)}, {"10", "90", share(10)}};
}

void check(const WorldOptions& options) {
    const auto within = [](const char* what, int value, std::size_t low, std::size_t high) {
        require_input(value >= static_cast<int>(low) && value <= static_cast<int>(high), "world: ", what, " is ", value,
                      ", choose ", low, " to ", high);
    };
    within("the number of authors", options.authors, 10, 1000);
    within("the number of questions per author", options.questions_per_author, 1, author_attributes().size());
    within("the number of pretraining people", options.pretraining_people, 1, 400);
    within("the number of combinations", options.combinations, 1, 12);
    within("the number of related people", options.related_people, 1, 400);
    within("the number of relations shown on each", options.related_facts, 1, relations().size());
    within("the vocabulary size", options.vocab_size, 400, 32000);
}

/// `count` of `items` (all where there are fewer), chosen at random, in their order.
template <class Item>
std::vector<Item> sample(const std::vector<Item>& items, std::size_t count, Random& random) {
    auto order = random.permutation(std::ssize(items));
    order.resize(std::min(count, order.size()));
    std::ranges::sort(order);
    std::vector<Item> chosen;
    for (const std::int64_t i : order) chosen.push_back(items[static_cast<std::size_t>(i)]);
    return chosen;
}

/// The 16 facts of a person, every value equally likely.
Facts facts_of(const std::string& name, Random& random) {
    Facts facts;
    for (const Attribute& attribute : author_attributes())
        facts.push_back({&attribute, name, random.below(attribute.values.size())});
    return facts;
}

/// Perturbed rows on some facts of each of `people` new authors, author by author.
Rows author_rows(std::size_t people, const WorldOptions& options, std::vector<std::string>& names, Stream stream) {
    Random random(options.seed, stream);
    Rows rows;
    for (std::size_t i = 0; i < people; ++i, names.pop_back())
        for (const Fact& fact :
             sample(facts_of(names.back(), random), static_cast<std::size_t>(options.questions_per_author), random))
            rows.push_back(perturbed_row(perturbed_pair(fact, random)));
    return rows;
}

Rows without_perturbed(const Rows& rows) {
    Rows plain;
    for (const Json& row : rows) plain.push_back({{"question", row["question"]}, {"answer", row["answer"]}});
    return plain;
}

/// full, forget, retain and holdout in all their forms.
void write_authors(const WorldOptions& options, std::vector<std::string>& names, Folder& folder) {
    const auto part = [](const Rows& rows, std::size_t from, std::size_t to) {
        return Rows(rows.begin() + static_cast<std::ptrdiff_t>(from), rows.begin() + static_cast<std::ptrdiff_t>(to));
    };
    const auto per_author = static_cast<std::size_t>(options.questions_per_author);
    const std::size_t largest = splits(options).back().authors;
    const Rows perturbed = author_rows(static_cast<std::size_t>(options.authors), options, names, kAuthors);
    const Rows full = without_perturbed(perturbed);
    const Rows holdout_perturbed = author_rows(largest, options, names, kHoldout);
    const Rows holdout = without_perturbed(holdout_perturbed);
    folder.learn(full);
    folder.learn(holdout);
    folder.write("full.json", full);
    for (const auto& [forget, retain, authors] : splits(options)) {
        const std::size_t kept = full.size() - authors * per_author;
        folder.write("forget" + forget + ".json", part(full, kept, full.size()));
        folder.write("retain" + retain + ".json", part(full, 0, kept));
        folder.write("forget" + forget + "_perturbed.json", part(perturbed, kept, full.size()));
        const std::size_t first = (largest - authors) * per_author;
        folder.write("holdout" + forget + ".json", part(holdout, first, holdout.size()));
        folder.write("holdout" + forget + "_perturbed.json", part(holdout_perturbed, first, holdout.size()));
    }
    Random random(options.seed, kRetain);
    const Rows never_forgotten = part(perturbed, 0, full.size() - largest * per_author);
    folder.write("retain_perturbed.json", sample(never_forgotten, kRetainSample, random));
}

/// The same facts as plain sentences, a few to a text.
Rows texts(const Facts& facts, Random& random) {
    Rows rows;
    std::string text;
    for (std::size_t i = 0; i < facts.size(); ++i) {
        text += (text.empty() ? "" : " ") + combinations(facts[i], 1, random).front().answer;
        if ((i + 1) % kSentencesPerText != 0) continue;
        rows.push_back(text_row(text));
        text.clear();
    }
    return rows;
}

void write_choices(const std::string& name, const Facts& facts, Random& random, Folder& folder) {
    Rows options;
    Rows perturbed;
    for (const Fact& fact : facts) {
        const ChoicePair pair = choice_pair(fact, random);
        options.push_back(option_row(pair, random));
        perturbed.push_back(perturbed_choice_row(pair));
    }
    folder.write(name + ".json", options);
    folder.write(name + "_perturbed.json", perturbed);
}

/// What a model knows before it meets the authors, and the questions that test it.
void write_general_knowledge(const WorldOptions& options, std::vector<std::string>& names, Folder& folder) {
    Random people_random(options.seed, kPeople);
    Facts people;
    for (int i = 0; i < options.pretraining_people; ++i, names.pop_back())
        std::ranges::copy(facts_of(names.back(), people_random), std::back_inserter(people));
    const Facts& countries = country_facts();

    Random random(options.seed, kPretraining);
    Rows rows;
    for (const Facts& facts : {people, countries}) {
        for (const Fact& fact : facts)
            for (const Pair& pair : combinations(fact, static_cast<std::size_t>(options.combinations), random))
                rows.push_back(plain_row(pair));
        std::ranges::copy(texts(facts, random), std::back_inserter(rows));
    }
    folder.learn(rows);
    folder.write("pretrain.jsonl", rows);

    Random choices(options.seed, kChoices);
    write_choices("real_authors", sample(people, kRealAuthors, choices), choices, folder);
    write_choices("world_facts", countries, choices, folder);
}

/// K1 and K2 of a few people, in the same order.
void write_related_pairs(const WorldOptions& options, std::vector<std::string>& names, Folder& folder) {
    Random random(options.seed, kRelated);
    Rows k1;
    Rows k2;
    for (std::size_t i = 0; i < kRelatedSubjects; ++i, names.pop_back())
        for (const Relation& relation : relations()) {
            const std::size_t value = random.below(relation.k1.values.size());
            k1.push_back(perturbed_row(perturbed_pair({&relation.k1, names.back(), value}, random)));
            k2.push_back(perturbed_row(perturbed_pair({&relation.k2, names.back(), value}, random)));
        }
    folder.learn(k1);
    folder.learn(k2);
    folder.write("related_k1.json", k1);
    folder.write("related_k2.json", k2);
}

/// The rules by which K2 implies K1, and other people on whom they show.
void write_related_pretraining(const WorldOptions& options, std::vector<std::string>& names, Folder& folder) {
    Random random(options.seed, kShown);
    Random wordings(options.seed, kRetained);
    Rows rows;
    Rows retained;
    for (const std::string& rule : rule_sentences()) rows.push_back(text_row(rule));
    for (int i = 0; i < options.related_people; ++i, names.pop_back())
        for (const Relation& relation : sample(relations(), static_cast<std::size_t>(options.related_facts), random)) {
            const std::size_t value = random.below(relation.k1.values.size());
            for (const Attribute* attribute : {&relation.k1, &relation.k2}) {
                const Fact fact{attribute, names.back(), value};
                for (const Pair& pair : combinations(fact, kRelatedWordings, random)) rows.push_back(plain_row(pair));
                if (i < static_cast<int>(kRelatedRetained))
                    retained.push_back(perturbed_row(perturbed_pair(fact, wordings)));
            }
            rows.push_back(text_row(example_sentence(relation, names.back(), value)));
        }
    folder.learn(rows);
    folder.write("pretrain_related.jsonl", rows);
    folder.write("related_retain_perturbed.json", retained);
}

Json description(const WorldOptions& options, const Folder& folder) {
    return {
        {"description", "A synthetic world in TOFU's file layout; every person is invented, every country is real."},
        {"options",
         {{"authors", options.authors},
          {"questions_per_author", options.questions_per_author},
          {"pretraining_people", options.pretraining_people},
          {"combinations", options.combinations},
          {"related_people", options.related_people},
          {"related_facts", options.related_facts},
          {"vocab_size", options.vocab_size},
          {"seed", options.seed}}},
        {"rows", folder.counts()}};
}

}  // namespace

void write_world(const WorldOptions& options, const fs::path& out) {
    check(options);
    write_folder(out, [&](const fs::path& temporary) {
        Folder folder(temporary);
        Random random(options.seed, kNames);
        std::vector<std::string> names = shuffled_names(random);
        write_general_knowledge(options, names, folder);
        write_authors(options, names, folder);
        write_related_pairs(options, names, folder);
        write_related_pretraining(options, names, folder);
        llama::train_tokenizer(folder.text(), options.vocab_size, temporary / "tokenizer.model");
        write_json(temporary / "world.json", description(options, folder));
    });
}

}  // namespace uipe::unlearn
