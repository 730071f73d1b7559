#include "llama/tokenizer_trainer.h"

#include <gtest/gtest.h>
#include <sentencepiece_processor.h>
#include <unistd.h>

#include <algorithm>

#include "tensor/base/error.h"

namespace uipe::llama {
namespace {

using Pieces = std::vector<std::string>;

class TokenizerTrainer : public testing::Test {
protected:
    void SetUp() override { fs::create_directories(folder_); }
    void TearDown() override { fs::remove_all(folder_); }

    static Pieces lines() {
        Pieces text;
        for (const std::string name : {"Amara", "Hugo", "Wanda"})
            for (const std::string city : {"Lima", "Oslo", "Rome"})
                text.push_back("[INST] Where was " + name + " born? [/INST]" + name + " was born in " + city + ".");
        return text;
    }

    const sentencepiece::SentencePieceProcessor& trained(int vocab_size) {
        train_tokenizer(lines(), vocab_size, folder_ / "t.model");
        EXPECT_TRUE(processor_.Load((folder_ / "t.model").string()).ok());
        return processor_;
    }

    fs::path folder_ = fs::temp_directory_path() / cat("tokenizer_trainer_", ::getpid());
    sentencepiece::SentencePieceProcessor processor_;
};

TEST_F(TokenizerTrainer, HasTheIdsAndBytesOfLlama) {
    const auto& processor = trained(400);
    EXPECT_EQ(processor.unk_id(), 0);
    EXPECT_EQ(processor.bos_id(), 1);
    EXPECT_EQ(processor.eos_id(), 2);
    EXPECT_EQ(processor.pad_id(), -1);
    EXPECT_EQ(processor.PieceToId("<0x00>"), 3);
    EXPECT_EQ(processor.PieceToId("<0xFF>"), 258);
    EXPECT_TRUE(processor.IsByte(258));
}

TEST_F(TokenizerTrainer, ATagIsOnePieceAndPunctuationStandsAlone) {
    const auto& processor = trained(400);
    EXPECT_EQ(processor.EncodeAsPieces("[INST] Where was Hugo born? [/INST]Hugo was born in Oslo."),
              (Pieces{"▁[INST]", "▁Where", "▁was", "▁Hugo", "▁born", "?", "▁[/INST]", "Hugo", "▁was", "▁born", "▁in",
                      "▁Oslo", "."}));
}

TEST_F(TokenizerTrainer, TextItHasNeverSeenSurvivesTheRoundTrip) {
    const auto& processor = trained(400);
    const std::string text = "Zoë  saw 12 ☃ [at] noon, twice!";
    std::string back;
    ASSERT_TRUE(processor.Decode(processor.EncodeAsIds(text), &back).ok());
    EXPECT_EQ(back, text);
    EXPECT_EQ(std::ranges::count(processor.EncodeAsIds(text), processor.unk_id()), 0);
}

TEST_F(TokenizerTrainer, StopsWhenThereIsNothingToMerge) {
    EXPECT_EQ(trained(320).GetPieceSize(), 320);
    const int all = trained(5000).GetPieceSize();
    EXPECT_GT(all, 320);
    EXPECT_LT(all, 600);
}

TEST_F(TokenizerTrainer, TheSameLinesGiveTheSameBytesInSilence) {
    testing::internal::CaptureStderr();
    train_tokenizer(lines(), 350, folder_ / "a.model");
    train_tokenizer(lines(), 350, folder_ / "b.model");
    EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
    EXPECT_EQ(read_file(folder_ / "a.model"), read_file(folder_ / "b.model"));
}

TEST_F(TokenizerTrainer, RefusesWhatItCannotLearn) {
    EXPECT_THROW(train_tokenizer(lines(), 260, folder_ / "c.model"), InputError);
    EXPECT_THROW(train_tokenizer(lines(), -1, folder_ / "c.model"), InputError);
    EXPECT_THROW(train_tokenizer({}, 400, folder_ / "c.model"), InputError);
    EXPECT_FALSE(fs::exists(folder_ / "c.model"));
}

}  // namespace
}  // namespace uipe::llama
