#include "llama/presets.h"

#include "tests/llama/support.h"

namespace uipe::llama {
namespace {

TEST(Presets, HaveThePublishedNumbersOfParameters) {
    // The counts that the models are published with (meta-llama, TinyLlama and llama2.c's checkpoints).
    EXPECT_EQ(parameter_count(preset("llama2-7b")), 6'738'415'616);
    EXPECT_EQ(parameter_count(preset("llama2-13b")), 13'015'864'320);
    EXPECT_EQ(parameter_count(preset("llama2-70b")), 68'976'648'192);
    EXPECT_EQ(parameter_count(preset("tinyllama-1.1b")), 1'100'048'384);
    EXPECT_EQ(parameter_count(preset("stories-110m")), 109'529'856);
    EXPECT_EQ(parameter_count(preset("stories-15m")), 15'191'712);
    for (const char* name : {"llama2-7b", "llama2-70b", "stories-15m"}) check_config(preset(name), name);
}

TEST(Presets, AnUnknownOneIsNamedBesideTheKnown) {
    EXPECT_SAYS(message_of([] { preset("llama3-8b"); }), "llama3-8b");
    EXPECT_SAYS(message_of([] { preset("llama3-8b"); }), "llama2-7b, llama2-13b");
}

}  // namespace
}  // namespace uipe::llama
