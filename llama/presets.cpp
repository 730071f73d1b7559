#include "llama/presets.h"

namespace uipe::llama {
namespace {

struct Sizes {
    const char* name;
    std::int64_t C, F, L, H, K, positions;
    bool tied;
};

// Touvron et al. 2023, table 1, and the models' config.json; Zhang et al. 2024; the models that come with llama2.c.
constexpr Sizes known[] = {
    {"llama2-7b", 4096, 11008, 32, 32, 32, 4096, false}, {"llama2-13b", 5120, 13824, 40, 40, 40, 4096, false},
    {"llama2-70b", 8192, 28672, 80, 64, 8, 4096, false}, {"tinyllama-1.1b", 2048, 5632, 22, 32, 4, 2048, false},
    {"stories-110m", 768, 2048, 12, 12, 12, 1024, true}, {"stories-15m", 288, 768, 6, 6, 6, 256, true},
};

}  // namespace

Config preset(const std::string& name) {
    for (const Sizes& s : known) {
        if (name != s.name) continue;
        Config c;
        c.hidden_size = s.C;
        c.intermediate_size = s.F;
        c.num_layers = s.L;
        c.num_heads = s.H;
        c.num_kv_heads = s.K;
        c.head_dim = s.C / s.H;
        c.vocab_size = 32000;
        c.max_position_embeddings = s.positions;
        c.rms_norm_eps = 1e-5;
        c.tie_word_embeddings = s.tied;
        return c;
    }
    throw InputError(cat("unknown --preset '", name, "'; known: ", preset_names()));
}

std::string preset_names() {
    std::string names;
    for (const Sizes& s : known) names += (names.empty() ? "" : ", ") + std::string(s.name);
    return names;
}

}  // namespace uipe::llama
