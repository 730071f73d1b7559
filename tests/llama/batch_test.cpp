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

TEST(Batch, RefusesNothingToPredict) {
    EXPECT_SAYS(message_of<Error>([] { pack({}); }), "at least one sequence");
    const std::vector<Sequence> sequences = {{{1, 2}, 1}, {{1}, 1}};
    EXPECT_SAYS(message_of<Error>([&] { pack(sequences); }), "sequence 1 of the batch has 1 tokens");
}

}  // namespace
}  // namespace uipe::llama
