#include "llama/batch.h"

#include "support.h"

namespace uipe::llama {
namespace {

using Ids = std::vector<std::int32_t>;

TEST(Batch, PacksSequencesOneAfterAnother) {
    const std::vector<Sequence> sequences = {{{1, 10, 11, 12, 2}, 3}, {{1, 20, 2}, 1}};
    const Batch batch = pack(sequences);
    EXPECT_EQ(batch.tokens.to_vector<std::int32_t>(), (Ids{1, 10, 11, 12, 1, 20}));
    EXPECT_EQ(batch.targets.to_vector<std::int32_t>(), (Ids{-1, -1, 12, 2, 20, 2}));
    EXPECT_EQ(batch.positions.to_vector<std::int32_t>(), (Ids{0, 1, 2, 3, 0, 1}));
    EXPECT_EQ(batch.cu_seqlens.to_vector<std::int32_t>(), (Ids{0, 4, 6}));
    EXPECT_EQ(batch.T, 6);
    EXPECT_EQ(batch.B, 2);
    EXPECT_EQ(batch.num_targets, 4);
    EXPECT_EQ(batch.max_len, 4);
}

TEST(Batch, SharesTheRowsInWhichNeighboursAreAlike) {
    const std::vector<Sequence> sequences = {{{1, 10, 11, 12, 2}, 3},   // rows 0 to 3
                                             {{1, 10, 11, 20, 21}, 3},  // alike up to 11, whose targets differ
                                             {{1, 10, 11, 20, 22}, 3},  // up to 20
                                             {{1, 10, 11, 20, 22}, 3},  // wholly
                                             {{1, 10, 11, 20}, 3},      // a beginning
                                             {{1, 10, 11, 20, 9}, 1},   // alike up to 20, but its rows have targets
                                             {{1, 10, 11, 20, 8}, 0},   // the same, said otherwise
                                             {{3, 10, 11, 20, 9}, 1}};  // nothing
    const Batch batch = pack_sharing(sequences);
    EXPECT_EQ(batch.cu_seqlens.to_vector<std::int32_t>(), (Ids{0, 4, 6, 7, 7, 7, 11, 15, 19}));
    EXPECT_EQ(batch.tokens.to_vector<std::int32_t>(),
              (Ids{1, 10, 11, 12, 11, 20, 20, 1, 10, 11, 20, 1, 10, 11, 20, 3, 10, 11, 20}));
    EXPECT_EQ(batch.targets.to_vector<std::int32_t>(),
              (Ids{-1, -1, 12, 2, 20, 21, 22, 10, 11, 20, 9, 10, 11, 20, 8, 10, 11, 20, 9}));
    EXPECT_EQ(batch.positions.to_vector<std::int32_t>(),
              (Ids{0, 1, 2, 3, 2, 3, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3}));
    EXPECT_EQ(batch.cu_keys.to_vector<std::int32_t>(), (Ids{0, 4, 8, 12, 16, 19, 23, 27, 31}));
    EXPECT_EQ(batch.key_rows.to_vector<std::int32_t>(), (Ids{0, 1, 2, 3, 0, 1, 4,  5,  0,  1,  4,  6,  0,  1,  4, 6,
                                                             0, 1, 4, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18}));
    EXPECT_EQ(batch.T, 19);
    EXPECT_EQ(batch.B, 8);
    EXPECT_EQ(batch.num_targets, 17);
    EXPECT_EQ(batch.max_len, 4);
}

TEST(Batch, OfNothingAlikeSharesNothing) {
    const std::vector<Sequence> sequences = {{{1, 10, 11}, 1}, {{2, 10, 11}, 1}};
    const Batch batch = pack_sharing(sequences);
    EXPECT_EQ(batch.tokens.to_vector<std::int32_t>(), pack(sequences).tokens.to_vector<std::int32_t>());
    EXPECT_EQ(batch.key_rows.to_vector<std::int32_t>(), (Ids{0, 1, 2, 3}));
    EXPECT_FALSE(pack(sequences).key_rows.defined());
}

TEST(Batch, RefusesNothingToPredict) {
    EXPECT_SAYS(message_of<Error>([] { pack({}); }), "at least one sequence");
    const std::vector<Sequence> sequences = {{{1, 2}, 1}, {{1}, 1}};
    EXPECT_SAYS(message_of<Error>([&] { pack(sequences); }), "sequence 1 of the batch has 1 tokens");
}

}  // namespace
}  // namespace uipe::llama
