// Each metric on two small rows, computed by hand, and all of them by another program from a model.
#include "eval/token_metrics.h"

#include <gtest/gtest.h>

#include <cmath>

#include "llama/weights.h"
#include "tensor/base/error.h"
#include "tensor/base/json.h"

namespace uipe::eval {
namespace {

using llama::TokenScore;
using Row = std::vector<TokenScore>;

// logp, likeliest, mean, variance; the last token of each ends its sequence.
const Row first{{-1, true, -2, 4}, {-3, false, -2, 4}, {-2, true, -3, 0.25}, {-0.5, true, -1, 1}, {-4.5, false, 0, 1}};
const Row second{{-1, false, -1, 0}, {-2, false, -2.5, 0}, {-6, true, -1, 1}};

TEST(TokenMetrics, ExactMemorizationIsTheShareOfTokensButTheEnd) {
    EXPECT_EQ(exact_memorization(first), 0.75);
    EXPECT_EQ(exact_memorization(second), 0.0);
}

TEST(TokenMetrics, ExtractionStrengthIsTheShareOfTheTokensAfterTheLastWrongOne) {
    EXPECT_EQ(extraction_strength(first), 0.5);
    EXPECT_EQ(extraction_strength(second), 0.5);  // nothing is extracted, and yet one token of two: the quirk
    const Row right{{-1, true}, {-1, true}, {-1, false}};
    EXPECT_EQ(extraction_strength(right), 1.0);
    const Row wrong_at_last{{-1, true}, {-1, true}, {-1, true}, {-1, false}, {-1, true}};
    EXPECT_EQ(extraction_strength(wrong_at_last), 0.25);
}

TEST(TokenMetrics, LossCountsTheEnd) {
    EXPECT_DOUBLE_EQ(mia_loss(first), 11.0 / 5);
    EXPECT_DOUBLE_EQ(mia_loss(second), 3.0);
    EXPECT_THROW(mia_loss({}), Error);
}

TEST(TokenMetrics, ZlibDividesTheLossByTheBytesOfTheCompressedText) {
    // Two bytes of header and four of checksum; of a short text ten bits of block and 8 or 9 for each letter below or
    // from 144 on.
    EXPECT_DOUBLE_EQ(mia_zlib(first, ""), 11.0 / 5 / 8);
    EXPECT_DOUBLE_EQ(mia_zlib(first, "a"), 11.0 / 5 / 9);
    EXPECT_DOUBLE_EQ(mia_zlib(second, "abc"), 3.0 / 11);
    EXPECT_DOUBLE_EQ(mia_zlib(second, "é"), 3.0 / 10);  // two bytes of UTF-8
}

TEST(TokenMetrics, MinKTakesTheLowestTwoFifthsOfTheTokensButTheEnd) {
    EXPECT_DOUBLE_EQ(mia_min_k(first), 3.0);   // one of four
    EXPECT_DOUBLE_EQ(mia_min_k(second), 2.0);  // one of two: at least one
    Row five = first;
    five.insert(five.begin(), {-2.5, true});
    EXPECT_DOUBLE_EQ(mia_min_k(five), (3.0 + 2.5) / 2);
}

TEST(TokenMetrics, MinKPlusPlusNormalisesByTheVocabulary) {
    EXPECT_DOUBLE_EQ(mia_min_k_plus_plus(first), 0.5);   // of 1/2, -1/2, 2 and 1/2
    EXPECT_DOUBLE_EQ(mia_min_k_plus_plus(second), 0.0);  // of 0 and 0.5 / 1e-3: no variance is 1e-6
    EXPECT_DOUBLE_EQ(mia_min_k_plus_plus(Row(second.begin() + 1, second.end())), -500.0);
}

TEST(TokenMetrics, WhatHoldsItsEndAloneScoresNothing) {
    const Row end{{-2, true, -1, 1}};
    for (const auto metric : {exact_memorization, extraction_strength, mia_min_k, mia_min_k_plus_plus})
        EXPECT_EQ(metric(end), 0.0);
    EXPECT_EQ(mia_loss(end), 2.0);
}

class TokenMetricsOfAModel : public ::testing::TestWithParam<tensor::DType> {};
INSTANTIATE_TEST_SUITE_P(Types, TokenMetricsOfAModel, ::testing::Values(tensor::DType::f64, tensor::DType::f32),
                         [](const auto& test) { return std::string(tensor::name_of(test.param)); });

// token_metrics.json: by the reference model in f64, from whole distributions over the vocabulary.
TEST_P(TokenMetricsOfAModel, AreThoseOfTheReference) {
    const fs::path folder = fs::path(FIXTURES) / "llama" / "grouped";
    const llama::Config config = llama::read_config(folder);
    const llama::Llama model(config, llama::own_weights(llama::read_weights(folder, config), GetParam()));
    const Json fixture = read_json(fs::path(FIXTURES) / "token_metrics.json");
    std::vector<llama::Sequence> sequences;
    for (const Json& row : fixture)
        sequences.push_back({row["ids"].get<std::vector<std::int32_t>>(), row["first_target"].get<std::int64_t>()});
    const auto scores = llama::token_scores(model, sequences, true, 30);
    // 50 roundings for each of 2 layers in logits about 10 (tests/fixtures/README.md); a deviation is 1 and more.
    const double tolerance = 100 * 10 * (GetParam() == tensor::DType::f64 ? 0x1p-53 : 0x1p-24);
    for (std::size_t i = 0; i < sequences.size(); ++i) {
        SCOPED_TRACE(i);
        const Json& row = fixture[i];
        const auto expect_near = [&](double got, const char* name) {
            EXPECT_NEAR(got, row.at(name).get<double>(), tolerance) << name;
        };
        EXPECT_EQ(exact_memorization(scores[i]), row.at("exact_memorization").get<double>());
        EXPECT_EQ(extraction_strength(scores[i]), row.at("extraction_strength").get<double>());
        expect_near(mia_loss(scores[i]), "mia_loss");
        expect_near(mia_zlib(scores[i], row.at("text").get<std::string>()), "mia_zlib");
        expect_near(mia_min_k(scores[i]), "mia_min_k");
        expect_near(mia_min_k_plus_plus(scores[i]), "mia_min_k_plus_plus");
    }
}

}  // namespace
}  // namespace uipe::eval
