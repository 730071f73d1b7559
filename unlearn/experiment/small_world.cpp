#include "unlearn/experiment/small_world.h"

#include "llama/tokenizer.h"

namespace uipe::unlearn {

llama::Config small_config(std::int64_t width, std::int64_t layers, std::int64_t vocab_size) {
    llama::Config c;
    c.hidden_size = width;
    c.intermediate_size = width * 8 / 3 / 8 * 8;
    c.num_layers = layers;
    c.num_heads = c.num_kv_heads = 4;
    c.head_dim = width / c.num_heads;
    c.vocab_size = vocab_size;
    c.max_position_embeddings = 256;
    return c;
}

Words form_words(const std::string& form) { return form == default_form ? Words{} : Words{"--template", form}; }

SmallWorld small_world(const SmallWorldOptions& o, const Cache& cache) {
    const Words seed{"--seed", std::to_string(o.seed)};
    const bool related = o.related_people > 0;
    Words words{"world"};
    if (related)
        words.insert(words.end(),
                     {"--people", "20", "--combinations", "4", "--related-people", std::to_string(o.related_people)});
    words.insert(words.end(), seed.begin(), seed.end());
    SmallWorld out;
    out.world = cache.run("world", words);
    const fs::path tokenizer = out.world / "tokenizer.model";
    const fs::path config = cache.make(
        "config", {"config", tokenizer.string(), std::to_string(o.width), std::to_string(o.layers)},
        [&](const fs::path& to) {
            llama::write_config(to, small_config(o.width, o.layers, llama::Tokenizer::load(tokenizer).vocab_size()));
        });
    out.pretraining = {(out.world / "pretrain.jsonl").string()};
    if (related) out.pretraining.push_back((out.world / "pretrain_related.jsonl").string());
    words = {"train",
             "--init",
             (config / "config.json").string(),
             "--tokenizer",
             tokenizer.string(),
             "--epochs",
             std::to_string(o.epochs),
             "--batch-size",
             related ? "64" : "32",
             "--lr",
             "3e-3",
             "--warmup-epochs",
             "0.25",
             "--weight-decay",
             related ? "0.1" : "0",
             "--adam-beta2",
             "0.98",
             "--data"};
    words.insert(words.end(), out.pretraining.begin(), out.pretraining.end());
    for (const Words& more : {seed, form_words(o.form)}) words.insert(words.end(), more.begin(), more.end());
    out.model = cache.run("base", words) / "model";
    return out;
}

}  // namespace uipe::unlearn
