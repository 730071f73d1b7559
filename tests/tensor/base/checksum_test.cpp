#include "tensor/base/checksum.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

namespace uipe {
namespace {

std::uint64_t checksum(const std::string& bytes, std::size_t piece) {
    Checksum sum;
    for (std::size_t at = 0; at < bytes.size(); at += piece)
        sum.add(bytes.data() + at, std::min(piece, bytes.size() - at));
    return sum.value();
}

TEST(Checksum, IsThatOfTheWholeHoweverItIsCut) {
    std::string bytes;
    for (int i = 0; i < 1000; ++i) bytes += static_cast<char>(i * i);
    for (const std::size_t size : {0, 1, 31, 32, 33, 64, 1000}) {
        const std::string text = bytes.substr(0, size);
        EXPECT_EQ(checksum(text, 32), checksum(text, 2000)) << size;
        EXPECT_EQ(checksum(text, 96), checksum(text, 2000)) << size;
    }
}

TEST(Checksum, ChangesWithEveryBitAndWithTheSize) {
    std::string bytes(100, 'a');
    const std::uint64_t was = checksum(bytes, 64);
    for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
        bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ 1 << bit % 8);
        EXPECT_NE(checksum(bytes, 64), was) << bit;
        bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ 1 << bit % 8);
    }
    EXPECT_NE(checksum(bytes + '\0', 64), was);
}

}  // namespace
}  // namespace uipe
