#include "unlearn/experiment/cache.h"

#include <gtest/gtest.h>

#include "tests/llama/support.h"

namespace uipe::unlearn {
namespace {

/// How often it had to be made for these words.
int makings(const Cache& cache, const Words& words) {
    int times = 0;
    cache.make("thing", words, [&](const fs::path& folder) {
        ++times;
        write_file(folder / "made", "");
    });
    return times;
}

TEST(Cache, KnowsFilesByWhatIsInThemWhereverTheyLie) {
    const llama::TemporaryFolder folder;
    for (const char* place : {"here", "there"}) {
        fs::create_directories(folder / place / "data");
        write_file(folder / place / "data" / "rows.json", "[1]");
        write_file(folder / place / "log.json", "{}");
    }
    const auto words = [&](const std::string& place) {
        return Words{"eval", "--tofu", (folder / place / "data").string(), "--log",
                     (folder / place / "log.json").string()};
    };
    const Cache cache(folder / "results", {"--dtype", "f32", "--threads", "1"});
    EXPECT_EQ(makings(cache, words("here")), 1);
    EXPECT_EQ(makings(cache, words("here")), 0);
    EXPECT_EQ(makings(cache, words("there")), 0) << "the same files elsewhere";
    EXPECT_EQ(makings(Cache(folder / "results", {"--dtype", "f32", "--threads", "2"}), words("here")), 0);
    EXPECT_EQ(makings(Cache(folder / "results", {"--dtype", "bf16"}), words("here")), 1);
    for (const char* file : {"data/rows.json", "log.json"}) {
        const fs::path path = folder / "there" / file;
        const auto time = fs::last_write_time(path);
        fs::last_write_time(path, time + std::chrono::hours(1));
        EXPECT_EQ(makings(cache, words("there")), 0) << "touched";
        write_file(path, file == std::string("log.json") ? "[]" : "[2]");  // as long
        EXPECT_EQ(makings(cache, words("there")), 1) << "another " << file;
    }
    fs::rename(folder / "here/data/rows.json", folder / "here/data/other.json");
    EXPECT_EQ(makings(cache, words("here")), 1) << "another name";
}

}  // namespace
}  // namespace uipe::unlearn
