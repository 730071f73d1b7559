#include "bench/small_model.h"

#include "bench/data.h"

namespace uipe::bench {

llama::Config small_config() {
    llama::Config c;
    c.hidden_size = 288;
    c.intermediate_size = 768;
    c.num_layers = 6;
    c.num_heads = c.num_kv_heads = 6;
    c.head_dim = 48;
    c.vocab_size = 32000;
    c.max_position_embeddings = 256;
    c.tie_word_embeddings = true;
    llama::check_config(c, "the model of the benchmarks");
    return c;
}

std::vector<llama::Sequence> random_sequences(const llama::Config& config, const std::vector<std::int64_t>& lengths) {
    std::vector<llama::Sequence> out;
    for (const std::int64_t n : lengths)
        out.push_back({.ids = random_ids(n + 1, config.vocab_size, out.size()), .first_target = 1});
    return out;
}

double block_flops(const llama::Config& c, double T, double pairs) {
    const std::int64_t heads = 2 * c.num_heads + 2 * c.num_kv_heads;
    const std::int64_t weights = c.hidden_size * (heads * c.head_dim + 3 * c.intermediate_size);
    return static_cast<double>(c.num_layers) *
           (2.0 * T * static_cast<double>(weights) + 4.0 * static_cast<double>(c.head_dim * c.num_heads) * pairs);
}

double head_flops(const llama::Config& c, double T) {
    return 2.0 * T * static_cast<double>(c.hidden_size * c.vocab_size);
}

}  // namespace uipe::bench
