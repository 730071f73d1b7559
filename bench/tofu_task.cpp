#include "bench/tofu_task.h"

#include <cstdlib>

namespace uipe::bench {

std::optional<TofuTask> tofu_task() {
    const char* data = std::getenv("UIPE_DATA");
    if (data == nullptr || *data == '\0') return {};
    const fs::path folder = data;
    TofuTask task{llama::Tokenizer::load(folder / "llama2_tokenizer" / "tokenizer.model"),
                  eval::read_tofu(folder / "tofu", "forget01", 40),
                  {}};
    task.options.form = llama::prompt_template("llama2-chat");
    task.sets.real_authors.clear();
    task.sets.world_facts.clear();
    task.sets.holdout.clear();
    return task;
}

}  // namespace uipe::bench
