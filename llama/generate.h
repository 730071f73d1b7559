// Text generation with a key/value cache, for many prompts at once.
#pragma once

#include <functional>

#include "llama/model.h"

namespace uipe::llama {

struct GenerateOptions {
    std::int64_t max_new_tokens = 200;
    std::int64_t max_length = 0;  // prompt and continuation together; 0: the model's max_position_embeddings
    double temperature = 0.0;     // 0: greedy, the likeliest token, ties to the lower id
    double top_p = 1.0;           // sample from the likeliest tokens whose probability reaches top_p
    std::int64_t top_k = 0;       // and from at most this many; 0: no bound
    std::uint64_t seed = 0;
    std::int64_t batch_size = 128;  // prompts that run at once; the others wait for one to end
    bool stop_at_eos = true;
    std::function<void(std::size_t prompt, std::int32_t id)> on_token = {};   // each new token as it comes
    std::function<void(std::size_t ended, std::size_t total)> progress = {};  // prompts, whenever some have ended
};

/// The new ids of each prompt, without the EOS that ended it. Draws depend on seed, prompt index and step alone;
/// the logits, in their last digits, on how many rows run at once.
/// InputError when a prompt is empty or leaves no room under max_length.
std::vector<std::vector<std::int32_t>> generate(const Llama& model, std::span<const std::vector<std::int32_t>> prompts,
                                                const GenerateOptions& options);

}  // namespace uipe::llama
