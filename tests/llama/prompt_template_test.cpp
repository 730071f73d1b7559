#include "llama/prompt_template.h"

#include "support.h"

namespace uipe::llama {
namespace {

TEST(PromptTemplate, SpellsItsTexts) {
    EXPECT_EQ(prompt_template("llama2-chat").prompt("Who?"), "[INST] Who? [/INST]");
    EXPECT_EQ(prompt_template("llama2-chat").text("Who?", "I."), "[INST] Who? [/INST]I.");
    EXPECT_EQ(prompt_template("qa").prompt("Who?"), "Question: Who?\nAnswer:");
    EXPECT_EQ(prompt_template("qa").text("Who?", "I."), "Question: Who?\nAnswer: I.");
    EXPECT_EQ(prompt_template("plain").text("Who?", "I."), "Who? I.");
    EXPECT_SAYS(message_of([] { prompt_template("chatml"); }), "known are llama2-chat, qa, plain");
}

class Encoding : public ::testing::Test {
protected:
    void SetUp() override {
        const auto data = real_data();
        if (!data) GTEST_SKIP() << "set UIPE_DATA to the folder of real data";
        tokenizer_ = Tokenizer::load(*data / "llama2_tokenizer");
    }

    std::string targets(const Sequence& s) const {
        return tokenizer_.decode(std::span(s.ids).subspan(static_cast<std::size_t>(s.first_target)));
    }

    Tokenizer tokenizer_;
};

TEST_F(Encoding, TargetsAreTheAnswerAndEos) {
    const Sequence s = encode_qa(tokenizer_, prompt_template("llama2-chat"), "x", "Paris", 100);
    EXPECT_EQ(s.ids, (std::vector<std::int32_t>{1, 518, 25580, 29962, 921, 518, 29914, 25580, 29962, 2177, 275, 2}));
    EXPECT_EQ(s.first_target, 9);
}

TEST_F(Encoding, NoTemplateLosesAPartOfTheAnswer) {
    for (const char* name : {"llama2-chat", "qa", "plain"}) {
        const PromptTemplate& form = prompt_template(name);
        const Sequence s = encode_qa(tokenizer_, form, "Where is the tower?", "Paris, of course.", 100);
        EXPECT_EQ(targets(s), "Paris, of course.") << name;
        const auto prompt = encode_prompt(tokenizer_, form, "Where is the tower?");
        EXPECT_TRUE(std::equal(prompt.begin(), prompt.end(), s.ids.begin())) << name;
    }
}

TEST_F(Encoding, CutsAtTheMaximumLength) {
    const PromptTemplate& form = prompt_template("llama2-chat");
    const Sequence whole = encode_qa(tokenizer_, form, "x", "Paris", 12);
    EXPECT_EQ(whole.ids.back(), tokenizer_.eos_id());
    const Sequence cut = encode_qa(tokenizer_, form, "x", "Paris", 11);
    EXPECT_EQ(cut.ids.size(), 11U);
    EXPECT_EQ(cut.ids.back(), 275);  // the text reaches the limit: no EOS
    EXPECT_EQ(encode_qa(tokenizer_, form, "x", "Paris", 10).ids.size(), 10U);
    EXPECT_SAYS(message_of([&] { encode_qa(tokenizer_, form, "x", "Paris", 9); }), "9 tokens leave no room");
    EXPECT_SAYS(message_of([&] { encode_qa(tokenizer_, form, "x", "Paris", -3); }), "at least 2");
}

TEST_F(Encoding, AnEmptyAnswerIsEos) {
    const Sequence s = encode_qa(tokenizer_, prompt_template("llama2-chat"), "x", "", 100);
    EXPECT_EQ(s.first_target + 1, static_cast<std::int64_t>(s.ids.size()));
    EXPECT_EQ(s.ids.back(), tokenizer_.eos_id());
}

TEST_F(Encoding, TextIsAllTargets) {
    const Sequence s = encode_text(tokenizer_, "Hello World", 100);
    EXPECT_EQ(s.ids, (std::vector<std::int32_t>{1, 15043, 2787, 2}));
    EXPECT_EQ(s.first_target, 1);
    EXPECT_EQ(encode_text(tokenizer_, "Hello World", 3).ids, (std::vector<std::int32_t>{1, 15043, 2787}));
    EXPECT_SAYS(message_of([&] { encode_text(tokenizer_, "Hello", 1); }), "at least 2");
}

}  // namespace
}  // namespace uipe::llama
