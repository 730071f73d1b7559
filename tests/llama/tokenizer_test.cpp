#include "llama/tokenizer.h"

#include "llama/prompt_template.h"
#include "support.h"
#include "tensor/base/json.h"

namespace uipe::llama {
namespace {

class RealTokenizer : public ::testing::Test {
protected:
    void SetUp() override {
        const auto data = real_data();
        if (!data) GTEST_SKIP() << "set UIPE_DATA to the folder of real data";
        data_ = *data;
        tokenizer_ = Tokenizer::load(data_ / "llama2_tokenizer");
    }

    fs::path data_;
    Tokenizer tokenizer_;
};

using Ids = std::vector<std::int32_t>;

TEST_F(RealTokenizer, KnowsItsSpecialTokens) {
    EXPECT_EQ(tokenizer_.vocab_size(), 32000);
    EXPECT_EQ(tokenizer_.unk_id(), 0);
    EXPECT_EQ(tokenizer_.bos_id(), 1);
    EXPECT_EQ(tokenizer_.eos_id(), 2);
}

TEST_F(RealTokenizer, EncodesAsLlama2) {
    EXPECT_EQ(tokenizer_.encode("[INST]"), (Ids{518, 25580, 29962}));
    EXPECT_EQ(tokenizer_.encode("[INST] x [/INST]Paris"),
              (Ids{518, 25580, 29962, 921, 518, 29914, 25580, 29962, 2177, 275}));
    EXPECT_EQ(tokenizer_.encode(""), Ids{});
    for (const std::int32_t id : tokenizer_.encode("</s><s><unk>")) EXPECT_GT(id, 2);
}

TEST_F(RealTokenizer, DecodesWhatItEncoded) {
    for (const std::string text :
         {"Hello, world!", " two  blanks ", "line\nbreak\ttab", "Zürich, 東京, Ψ, 🙂", "x"})
        EXPECT_EQ(tokenizer_.decode(tokenizer_.encode(text)), text);
    EXPECT_EQ(tokenizer_.decode(Ids{1, 15043, 2, 0, 3186, 32000, -1, 40000}), "Hello world");
    EXPECT_EQ(tokenizer_.decode(Ids{}), "");
    EXPECT_EQ(tokenizer_.decode(Ids{3 + 0xE6}), "\xEF\xBF\xBD");  // the first of three bytes
    EXPECT_EQ(tokenizer_.pieces(Ids{15043, 13, 32001}), (std::vector<std::string>{"▁Hello", "<0x0A>", "<32001>"}));
}

TEST_F(RealTokenizer, StreamsWholeCharacters) {
    const std::string text = "Snow 🙂 in 東京 — ok";
    TextStream stream(tokenizer_);
    std::string joined;
    int held_back = 0;
    for (const std::int32_t id : tokenizer_.encode(text)) {
        const std::string part = stream.push(id);
        EXPECT_EQ(part.find("\xEF\xBF\xBD"), std::string::npos);
        held_back += part.empty() ? 1 : 0;
        joined += part;
    }
    EXPECT_GT(held_back, 2);
    EXPECT_EQ(joined + stream.finish(), text);
    EXPECT_EQ(stream.push(3 + 0xE6), "");
    EXPECT_EQ(stream.finish(), "\xEF\xBF\xBD");
}

/// Tokens to be predicted of an answer, EOS with them, as the published logs count them.
std::int64_t answer_tokens(const Tokenizer& tokenizer, const std::string& question, const std::string& answer) {
    const Sequence s = encode_qa(tokenizer, prompt_template("llama2-chat"), question, answer, 200);
    return static_cast<std::int64_t>(s.ids.size()) - s.first_target;
}

struct Counted {
    int equal = 0;
    int rows = 0;
};

/// Compares the counts of one part of a published log with those of its data file.
void count_part(const Tokenizer& tokenizer, const Json& log, const fs::path& file, Counted& counted) {
    const std::size_t rows = log["num_token_gt"].size();
    std::size_t i = 0;
    const auto compare = [&](const Json& row, const std::string& answer, const Json& published) {
        counted.equal += answer_tokens(tokenizer, row["question"], answer) == published.get<std::int64_t>() ? 1 : 0;
        ++counted.rows;
    };
    for_each_row(file, [&](const Json& row, const std::string&) {
        const std::string key = std::to_string(i++);
        if (i > rows) return;  // the logs hold the first 300 rows
        compare(row, row["answer"], log["num_token_gt"][key]);
        const char* base = row.contains("paraphrased_answer") ? "paraphrased_answer" : "answer";
        compare(row, row[base], log["num_token_paraphrased"][key]);
        const Json& perturbed = row["perturbed_answer"];
        for (std::size_t k = 0; k < perturbed.size(); ++k) compare(row, perturbed[k], log["num_token_perturb"][key][k]);
    });
}

Counted count_log(const Tokenizer& tokenizer, const fs::path& data, const char* log_name, const char* forget) {
    const Json log = read_json(data / "logs" / log_name / "eval_log_aggregated.json");
    Counted counted;
    count_part(tokenizer, log["eval_log.json"], data / "tofu/retain_perturbed.json", counted);
    count_part(tokenizer, log["eval_real_author_wo_options.json"], data / "tofu/real_authors_perturbed.json", counted);
    count_part(tokenizer, log["eval_real_world_wo_options.json"], data / "tofu/world_facts_perturbed.json", counted);
    count_part(tokenizer, log["eval_log_forget.json"], data / "tofu" / forget, counted);
    return counted;
}

TEST_F(RealTokenizer, CountsTheTokensOfEveryPublishedAnswer) {
    const Counted full = count_log(tokenizer_, data_, "tofu_llama2-7b_full", "forget10_perturbed.json");
    EXPECT_EQ(full.rows, 5285);
    EXPECT_EQ(full.equal, 5285);
    const Counted retain90 = count_log(tokenizer_, data_, "tofu_llama2-7b_retain90", "forget10_perturbed.json");
    EXPECT_EQ(retain90.equal, 5285);
    const Counted retain95 = count_log(tokenizer_, data_, "tofu_llama2-7b_retain95", "forget05_perturbed.json");
    EXPECT_EQ(retain95.rows, 4585);
    EXPECT_EQ(retain95.equal, 4585);
    const Counted retain99 = count_log(tokenizer_, data_, "tofu_llama2-7b_retain99", "forget01_perturbed.json");
    EXPECT_EQ(retain99.rows, 3465);
    EXPECT_EQ(retain99.equal, 3465);
}

TEST_F(RealTokenizer, BelongsToAModelOfItsSize) {
    Config config = small_config();
    for (const std::int64_t vocabulary : {32000, 32064, 32256}) {
        config.vocab_size = vocabulary;
        EXPECT_NO_THROW(check_tokenizer(tokenizer_, config));
    }
    for (const std::int64_t vocabulary : {31999, 32257, 512}) {
        config.vocab_size = vocabulary;
        const std::string message = message_of([&] { check_tokenizer(tokenizer_, config); });
        EXPECT_SAYS(message, "32000 pieces");
        EXPECT_SAYS(message, cat("vocab_size is ", vocabulary));
    }
    config.vocab_size = 32000;
    config.eos_token_ids = {5, 2};
    EXPECT_NO_THROW(check_tokenizer(tokenizer_, config));
    config.eos_token_ids = {5};
    EXPECT_SAYS(message_of([&] { check_tokenizer(tokenizer_, config); }), "EOS is 2");
    config.eos_token_ids = {2};
    config.bos_token_id = 0;
    EXPECT_SAYS(message_of([&] { check_tokenizer(tokenizer_, config); }), "BOS is 1");
}

TEST_F(RealTokenizer, SurvivesDamagedFiles) {
    const TemporaryFolder folder;
    const std::string good = read_file(data_ / "stories260K" / "tok512.model");
    int refused = 0;
    for (std::size_t cut = 0; cut < good.size(); cut += 97) {
        write_file(folder / "tokenizer.model", good.substr(0, cut));
        std::string flipped = good;
        flipped[cut] = static_cast<char>(flipped[cut] ^ 0x15);
        write_file(folder / "flipped.model", flipped);
        for (const char* name : {"tokenizer.model", "flipped.model"}) try {
                const Tokenizer tokenizer = Tokenizer::load(folder / name);
                tokenizer.decode(tokenizer.encode("Once upon a time 🙂"));
            } catch (const InputError&) {
                ++refused;
            }
    }
    EXPECT_GT(refused, 20);
}

TEST(Tokenizer, RefusesFilesThatAreNoModel) {
    const TemporaryFolder folder;
    EXPECT_SAYS(message_of([&] { Tokenizer::load(folder.path()); }), "tokenizer.model");
    write_file(folder / "tokenizer.model", "");
    EXPECT_SAYS(message_of([&] { Tokenizer::load(folder.path()); }), "tokenizer.model");
    write_file(folder / "tokenizer.model", "{\"version\": \"1.0\"}");
    EXPECT_SAYS(message_of([&] { Tokenizer::load(folder / "tokenizer.model"); }), "no SentencePiece model");
}

}  // namespace
}  // namespace uipe::llama
