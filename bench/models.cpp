#include "bench/models.h"

#include "bench/data.h"

namespace uipe::bench {
namespace {

NamedModel tied_model(const char* name, std::int64_t C, std::int64_t F, std::int64_t L, std::int64_t H) {
    llama::Config c;
    c.hidden_size = C;
    c.intermediate_size = F;
    c.num_layers = L;
    c.num_heads = c.num_kv_heads = H;
    c.head_dim = C / H;
    c.vocab_size = 32000;
    c.max_position_embeddings = 1024;
    c.tie_word_embeddings = true;
    c.initializer_range = 0.06;  // at the usual 0.02 a tied model only repeats its last token, whatever the blocks do
    llama::check_config(c, "a model of the benchmarks");
    return {name, c};
}

}  // namespace

const NamedModel& small_model() {
    static const NamedModel model = tied_model("15M", 288, 768, 6, 6);
    return model;
}

const NamedModel& demo_model() {
    static const NamedModel model = [] {
        NamedModel small = tied_model("demo", 96, 256, 4, 4);
        small.config.vocab_size = 1000;
        return small;
    }();
    return model;
}

const NamedModel& large_model() {
    static const NamedModel model = tied_model("110M", 768, 2048, 12, 12);
    return model;
}

std::vector<llama::Sequence> random_sequences(const llama::Config& config, const std::vector<std::int64_t>& lengths) {
    std::vector<llama::Sequence> out;
    for (const std::int64_t n : lengths)
        out.push_back({.ids = random_ids(n + 1, config.vocab_size, out.size()), .first_target = 1});
    return out;
}

std::vector<llama::Sequence> step_sequences(const llama::Config& config) {
    return random_sequences(config, std::vector<std::int64_t>(4, 256));
}

llama::StateDict weights_of(const NamedModel& model, tensor::DType dtype) {
    return llama::random_weights(model.config, dtype, 0);
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
