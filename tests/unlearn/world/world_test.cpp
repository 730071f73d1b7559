#include "unlearn/world/world.h"

#include <gtest/gtest.h>
#include <sentencepiece_processor.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>

#include "tensor/base/error.h"
#include "tensor/base/json.h"
#include "unlearn/world/related.h"
#include "unlearn/world/vocabulary.h"

namespace uipe::unlearn {
namespace {

using Rows = std::vector<Json>;
using Strings = std::set<std::string>;

const fs::path& scratch() {
    static const fs::path path = fs::temp_directory_path() / cat("world_test_", ::getpid());
    return path;
}

Rows rows(const fs::path& folder, const std::string& file) {
    Rows all;
    for_each_row(folder / file, [&](const Json& row, const std::string&) { all.push_back(row); });
    return all;
}

Rows part(const Rows& all, std::size_t from, std::size_t to) {
    return Rows(all.begin() + static_cast<std::ptrdiff_t>(from), all.begin() + static_cast<std::ptrdiff_t>(to));
}

std::map<std::string, std::string> files(const fs::path& folder) {
    std::map<std::string, std::string> bytes;
    for (const auto& entry : fs::directory_iterator(folder))
        bytes[entry.path().filename().string()] = read_file(entry.path());
    return bytes;
}

/// The person a question is about.
std::string person_in(const std::string& question) {
    static const Strings names = [] {
        tensor::Random random(0, 0);
        const auto all = world::shuffled_names(random);
        return Strings(all.begin(), all.end());
    }();
    for (std::size_t start = 0; start != std::string::npos; start = question.find(' ', start + 1)) {
        const std::size_t from = start == 0 ? 0 : start + 1;
        const std::size_t blank = question.find(' ', from);
        if (blank == std::string::npos) break;
        const std::string name = question.substr(from, question.find_first_of(" ?", blank + 1) - from);
        if (names.contains(name)) return name;
    }
    return {};
}

Strings people_in(const Rows& all) {
    Strings people;
    for (const Json& row : all)
        if (row.contains("question"))
            if (const std::string name = person_in(row["question"]); !name.empty()) people.insert(name);
    return people;
}

/// The world of the default options, written once.
class World : public testing::Test {
protected:
    static void SetUpTestSuite() { write_world({}, scratch() / "world"); }
    static void TearDownTestSuite() { fs::remove_all(scratch()); }
    static Rows rows(const std::string& file) { return unlearn::rows(scratch() / "world", file); }
};

TEST_F(World, TheForgetSetsAreTheLastAuthorsAndTheRetainSetsTheRest) {
    const Rows full = rows("full.json");
    ASSERT_EQ(full.size(), 800u);
    const std::vector<std::tuple<std::string, std::string, std::size_t>> splits = {
        {"01", "99", 8}, {"05", "95", 40}, {"10", "90", 80}};
    for (const auto& [forget, retain, count] : splits) {
        EXPECT_EQ(rows("forget" + forget + ".json"), part(full, 800 - count, 800));
        EXPECT_EQ(rows("retain" + retain + ".json"), part(full, 0, 800 - count));
        EXPECT_EQ(rows("holdout" + forget + ".json").size(), count);
        EXPECT_EQ(people_in(rows("forget" + forget + ".json")).size(), count / 8);
        const Rows perturbed = rows("forget" + forget + "_perturbed.json");
        ASSERT_EQ(perturbed.size(), count);
        for (std::size_t i = 0; i < count; ++i) {
            EXPECT_EQ(perturbed[i]["question"], full[800 - count + i]["question"]);
            EXPECT_EQ(perturbed[i]["answer"], full[800 - count + i]["answer"]);
        }
        const Rows unseen = rows("holdout" + forget + "_perturbed.json");
        ASSERT_EQ(unseen.size(), count);
        for (std::size_t i = 0; i < count; ++i)
            EXPECT_EQ((Json{{"question", unseen[i]["question"]}, {"answer", unseen[i]["answer"]}}),
                      rows("holdout" + forget + ".json")[i]);
    }
}

TEST_F(World, RetainPerturbedHoldsRowsThatAreNeverForgotten) {
    const Rows sample = rows("retain_perturbed.json");
    EXPECT_EQ(sample.size(), 400u);
    Strings kept;
    for (const Json& row : rows("retain90.json")) kept.insert(row["question"].get<std::string>());
    Strings seen;
    for (const Json& row : sample) {
        EXPECT_TRUE(kept.contains(row["question"].get<std::string>()));
        EXPECT_TRUE(seen.insert(row["question"].get<std::string>()).second);
    }
}

TEST_F(World, EveryPerturbedRowHasFiveFalseAnswersInTheWordsOfItsParaphrase) {
    for (const char* file : {"forget10_perturbed.json", "holdout10_perturbed.json", "retain_perturbed.json",
                             "related_k1.json", "related_k2.json"})
        for (const Json& row : rows(file)) {
            EXPECT_NE(row["question"], row["paraphrased_question"]);
            EXPECT_EQ(person_in(row["question"]), person_in(row["paraphrased_question"]));
            ASSERT_EQ(row["perturbed_answer"].size(), 5u);
            Strings answers = {row["answer"], row["paraphrased_answer"]};
            const std::string truth = row["paraphrased_answer"];
            for (const std::string answer : row["perturbed_answer"]) {
                answers.insert(answer);
                EXPECT_NE(answer.find(person_in(row["question"])), std::string::npos);
                // The words around the value: what the two have in common at both ends leaves a value of each.
                const auto head = std::ranges::mismatch(answer, truth).in1 - answer.begin();
                const auto tail =
                    std::mismatch(answer.rbegin(), answer.rend(), truth.rbegin(), truth.rend()).first - answer.rbegin();
                EXPECT_GE(head + tail, static_cast<std::ptrdiff_t>(person_in(row["question"]).size()) + 8) << answer;
            }
            EXPECT_EQ(answers.size(), 7u) << row.dump();
        }
}

TEST_F(World, NoRowComesTwiceAndNoPersonPlaysTwoParts) {
    const std::vector<std::pair<std::vector<std::string>, std::size_t>> parts = {{{"full.json"}, 100},
                                                                                 {{"holdout10.json"}, 10},
                                                                                 {{"pretrain.jsonl"}, 60},
                                                                                 {{"related_k1.json"}, 12},
                                                                                 {{"pretrain_related.jsonl"}, 300}};
    Strings everybody;
    std::size_t count = 0;
    for (const auto& [names, people] : parts) {
        const Rows all = rows(names[0]);
        Strings different;
        for (const Json& row : all) different.insert(row.dump());
        EXPECT_EQ(different.size(), all.size()) << names[0];
        const Strings found = people_in(all);
        EXPECT_EQ(found.size(), people) << names[0];
        everybody.insert(found.begin(), found.end());
        count += people;
    }
    EXPECT_EQ(everybody.size(), count);
    EXPECT_EQ(people_in(rows("related_k2.json")), people_in(rows("related_k1.json")));
}

TEST_F(World, GeneralKnowledgeIsWhatThePretrainingTextSays) {
    Strings told;
    for (const Json& row : rows("pretrain.jsonl"))
        if (row.contains("answer")) told.insert(row["answer"].get<std::string>());
    for (const std::string name : {"real_authors", "world_facts"}) {
        const Rows options = rows(name + ".json");
        const Rows perturbed = rows(name + "_perturbed.json");
        ASSERT_EQ(options.size(), 100u);
        ASSERT_EQ(perturbed.size(), 100u);
        int verbatim = 0;
        for (std::size_t i = 0; i < 100; ++i) {
            const std::string answer = options[i]["answer"];
            EXPECT_EQ(perturbed[i]["question"], options[i]["question"]);
            EXPECT_EQ(perturbed[i]["answer"], answer);
            Strings offered;
            for (const char* key : {"option1", "option2", "option3", "option4"})
                offered.insert(options[i][key].get<std::string>());
            Strings expected = {answer};
            for (const std::string wrong : perturbed[i]["perturbed_answer"]) {
                EXPECT_FALSE(told.contains(wrong)) << wrong;
                expected.insert(wrong);
            }
            EXPECT_EQ(expected.size(), 4u);
            EXPECT_EQ(offered, expected);
            verbatim += told.contains(answer);
        }
        EXPECT_GE(verbatim, 90) << "8 of 12 wordings nearly always hold each of the 4 answer templates";
    }
}

/// The value of `attribute` of which `answer` is one wording.
std::size_t value_of(const world::Attribute& attribute, const std::string& name, const std::string& answer) {
    for (std::size_t v = 0; v < attribute.values.size(); ++v)
        for (const std::string& words : attribute.answers)
            if (world::fill(words, name, attribute.values[v]) == answer) return v;
    ADD_FAILURE() << "no value of the attribute gives: " << answer;
    return 0;
}

TEST_F(World, K2ImpliesK1) {
    const Rows k1 = rows("related_k1.json");
    const Rows k2 = rows("related_k2.json");
    const auto& relations = world::relations();
    ASSERT_EQ(k1.size(), 12 * relations.size());
    ASSERT_EQ(k2.size(), k1.size());
    Strings rules;
    for (const std::string& sentence : world::rule_sentences()) rules.insert(sentence);
    for (std::size_t i = 0; i < k1.size(); ++i) {
        const world::Relation& relation = relations[i % relations.size()];
        const std::string name = person_in(k1[i]["question"]);
        EXPECT_EQ(person_in(k2[i]["question"]), name);
        const std::size_t value = value_of(relation.k1, name, k1[i]["answer"]);
        EXPECT_EQ(value_of(relation.k2, name, k2[i]["answer"]), value);
        EXPECT_TRUE(rules.contains("A person who " + world::fill(relation.k2_predicate, {}, relation.k2.values[value]) +
                                   " " + world::fill(relation.k1_predicate, {}, relation.k1.values[value]) + "."));
    }
    Strings told;
    for (const Json& row : rows("pretrain_related.jsonl"))
        if (row.contains("text")) told.insert(row["text"].get<std::string>());
    EXPECT_TRUE(std::ranges::includes(told, rules));
}

TEST_F(World, TheTokenizerKnowsTheWorldInFewPieces) {
    sentencepiece::SentencePieceProcessor processor;
    ASSERT_TRUE(processor.Load((scratch() / "world/tokenizer.model").string()).ok());
    EXPECT_EQ(processor.GetPieceSize(), 1500);
    for (const char* file : {"full.json", "holdout10.json", "related_k1.json", "related_k2.json"}) {
        const Rows all = rows(file);
        std::size_t tokens = 0;
        for (const Json& row : all) {
            const auto ids = processor.EncodeAsIds("[INST] " + row["question"].get<std::string>() + " [/INST]" +
                                                   row["answer"].get<std::string>());
            for (const int id : ids) EXPECT_FALSE(processor.IsByte(id) || processor.IsUnknown(id)) << row.dump();
            tokens += ids.size() + 2;  // <s> and </s>
        }
        EXPECT_LE(static_cast<double>(tokens) / static_cast<double>(all.size()), 30.0) << file;
    }
}

TEST_F(World, DescribesItself) {
    const Json described = read_json(scratch() / "world/world.json");
    EXPECT_EQ(described["options"]["seed"], 42);
    for (const auto& [file, count] : described["rows"].items()) EXPECT_EQ(rows(file).size(), count.get<std::size_t>());
    EXPECT_EQ(files(scratch() / "world").size(), described["rows"].size() + 2);  // tokenizer.model, world.json
}

TEST_F(World, TheSeedDecidesEveryByte) {
    write_world({}, scratch() / "again");
    EXPECT_EQ(files(scratch() / "again"), files(scratch() / "world"));
    WorldOptions other;
    other.seed = 43;
    write_world(other, scratch() / "again");
    for (const auto& [file, bytes] : files(scratch() / "world"))
        EXPECT_NE(read_file(scratch() / "again" / file), bytes) << file;
}

TEST(WorldOptions, RoundTheSharesToWholeAuthors) {
    WorldOptions options;
    options.authors = 26;
    options.questions_per_author = 3;
    options.pretraining_people = 8;  // 128 facts
    options.related_people = 5;
    options.vocab_size = 700;
    const fs::path out = scratch() / "small";
    write_world(options, out);
    EXPECT_EQ(rows(out, "forget01.json").size(), 1u * 3);
    EXPECT_EQ(rows(out, "forget05.json").size(), 1u * 3);
    EXPECT_EQ(rows(out, "forget10.json").size(), 3u * 3);
    EXPECT_EQ(rows(out, "retain90.json").size(), 23u * 3);
    EXPECT_EQ(rows(out, "retain_perturbed.json").size(), 23u * 3);
    EXPECT_EQ(rows(out, "real_authors.json").size(), 100u);
    fs::remove_all(scratch());
}

TEST(WorldOptions, AreCheckedBeforeAnythingIsWritten) {
    const fs::path out = scratch() / "refused";
    const auto refuses = [&](auto set) {
        WorldOptions options;
        set(options);
        EXPECT_THROW(write_world(options, out), InputError);
        EXPECT_FALSE(fs::exists(out));
    };
    refuses([](WorldOptions& o) { o.authors = 9; });
    refuses([](WorldOptions& o) { o.authors = 1001; });
    refuses([](WorldOptions& o) { o.questions_per_author = 0; });
    refuses([](WorldOptions& o) { o.questions_per_author = 17; });
    refuses([](WorldOptions& o) { o.pretraining_people = 0; });
    refuses([](WorldOptions& o) { o.combinations = 13; });
    refuses([](WorldOptions& o) { o.related_people = -1; });
    refuses([](WorldOptions& o) { o.vocab_size = 399; });
}

TEST(WorldVocabulary, EveryAttributeHasItsWordsAndDifferentValues) {
    std::vector<std::pair<const world::Attribute*, std::array<std::size_t, 3>>>
        attributes;  // least questions, answers, values
    for (const world::Attribute& a : world::author_attributes()) attributes.push_back({&a, {3, 4, 16}});
    for (const world::Fact& fact : world::country_facts()) attributes.push_back({fact.attribute, {3, 4, 4}});
    for (const world::Relation& r : world::relations())
        for (const world::Attribute* a : {&r.k1, &r.k2}) attributes.push_back({a, {2, 3, 8}});
    EXPECT_EQ(world::author_attributes().size(), 16u);
    EXPECT_EQ(world::relations().size(), 10u);
    for (const auto& [a, least] : attributes) {
        EXPECT_GE(Strings(a->questions.begin(), a->questions.end()).size(), least[0]) << a->questions[0];
        EXPECT_GE(Strings(a->answers.begin(), a->answers.end()).size(), least[1]) << a->questions[0];
        EXPECT_GE(a->values.size(), least[2]) << a->questions[0];
        EXPECT_EQ(Strings(a->values.begin(), a->values.end()).size(), a->values.size()) << a->questions[0];
        for (const std::string& text : a->questions)
            EXPECT_TRUE((text.find("{name}") != std::string::npos) && text.ends_with("?")) << text;
        for (const std::string& text : a->answers)
            EXPECT_TRUE((text.find("{name}") != std::string::npos) && (text.find("{value}") != std::string::npos) &&
                        text.ends_with("."))
                << text;
    }
}

}  // namespace
}  // namespace uipe::unlearn
