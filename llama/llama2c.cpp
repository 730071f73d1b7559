#include "llama/llama2c.h"

#include <array>
#include <cstring>

#include "tensor/base/error.h"

namespace uipe::llama {
namespace {

using tensor::DType;
using tensor::Shape;
using tensor::Tensor;

constexpr std::size_t header_bytes = 7 * sizeof(std::int32_t);

Config read_header(const MappedFile& file, const std::string& where) {
    require_input(file.size() >= header_bytes, where, ": ", file.size(), " bytes are too few for a llama2.c model");
    std::array<std::int32_t, 7> header{};
    std::memcpy(header.data(), file.data(), header_bytes);
    require_input(header[0] != 0x616b3432, where, ": is of version 1 or later; export it in the legacy format (0)");
    Config c;
    c.hidden_size = header[0];
    c.intermediate_size = header[1];
    c.num_layers = header[2];
    c.num_heads = header[3];
    c.num_kv_heads = header[4];
    c.vocab_size = std::abs(std::int64_t{header[5]});
    c.tie_word_embeddings = header[5] > 0;
    c.max_position_embeddings = header[6];
    c.rms_norm_eps = 1e-5;
    require_input(c.num_heads > 0 && c.hidden_size % c.num_heads == 0, where, ": width ", c.hidden_size,
                  " is no multiple of ", c.num_heads, " heads; is this a llama2.c model?");
    c.head_dim = c.hidden_size / c.num_heads;
    check_config(c, where);
    return c;
}

/// Hands out the floats of the file one tensor after another.
class Cursor {
public:
    explicit Cursor(const std::byte* at) : at_(at) {}
    Tensor take(const Shape& shape) {
        Tensor t = Tensor::empty(shape, DType::f32);
        std::memcpy(t.raw(), at_, t.nbytes());
        at_ += t.nbytes();
        return t;
    }
    /// One tensor of every layer: the format stores them by kind.
    void take_layers(StateDict& weights, const Config& c, const char* name, const Shape& shape) {
        for (std::int64_t i = 0; i < c.num_layers; ++i) weights[cat("model.layers.", i, ".", name)] = take(shape);
    }
    void skip(std::int64_t floats) { at_ += floats * static_cast<std::int64_t>(sizeof(float)); }

private:
    const std::byte* at_;
};

/// Rows 2i and 2i+1 of each head become rows i and i + D/2.
Tensor half_split(const Tensor& w, std::int64_t head_dim) {
    Tensor y = Tensor::empty(w.shape(), w.dtype());
    const std::size_t bytes = w.nbytes() / static_cast<std::size_t>(w.dim(0));
    for (std::int64_t row = 0; row < w.dim(0); ++row) {
        const std::int64_t in_head = row % head_dim;
        const std::int64_t to = row - in_head + in_head / 2 + in_head % 2 * (head_dim / 2);
        std::memcpy(y.rows(to, to + 1).raw(), w.rows(row, row + 1).raw(), bytes);
    }
    return y;
}

/// Floats of the rotary tables, cosines and sines, which follow from the sizes and are skipped.
std::int64_t rotary_floats(const Config& c) { return c.max_position_embeddings * c.head_dim; }

void check_size(const MappedFile& file, const Config& c, const std::string& where) {
    const std::int64_t floats = parameter_count(c) + rotary_floats(c);
    const auto bytes = header_bytes + static_cast<std::uint64_t>(floats) * sizeof(float);
    require_input(file.size() == bytes, where, ": has ", file.size(), " bytes, its sizes ask for ", bytes,
                  "; it is cut short or no legacy llama2.c model");
}

}  // namespace

Llama2cModel read_llama2c(const fs::path& path) {
    const MappedFile file(path);
    Llama2cModel model;
    const Config& c = model.config = read_header(file, path.string());
    check_size(file, c, path.string());
    const std::int64_t C = c.hidden_size;
    const std::int64_t F = c.intermediate_size;
    const std::int64_t KD = c.num_kv_heads * c.head_dim;
    StateDict& weights = model.weights;
    Cursor cursor(file.data() + header_bytes);
    weights["model.embed_tokens.weight"] = cursor.take({c.vocab_size, C});
    cursor.take_layers(weights, c, "input_layernorm.weight", {C});
    cursor.take_layers(weights, c, "self_attn.q_proj.weight", {C, C});
    cursor.take_layers(weights, c, "self_attn.k_proj.weight", {KD, C});
    cursor.take_layers(weights, c, "self_attn.v_proj.weight", {KD, C});
    cursor.take_layers(weights, c, "self_attn.o_proj.weight", {C, C});
    cursor.take_layers(weights, c, "post_attention_layernorm.weight", {C});
    cursor.take_layers(weights, c, "mlp.gate_proj.weight", {F, C});
    cursor.take_layers(weights, c, "mlp.down_proj.weight", {C, F});
    cursor.take_layers(weights, c, "mlp.up_proj.weight", {F, C});
    weights["model.norm.weight"] = cursor.take({C});
    cursor.skip(rotary_floats(c));
    if (!c.tie_word_embeddings) weights["lm_head.weight"] = cursor.take({c.vocab_size, C});
    for (std::int64_t i = 0; i < c.num_layers; ++i)
        for (const char* name : {".self_attn.q_proj.weight", ".self_attn.k_proj.weight"}) {
            Tensor& w = weights[cat("model.layers.", i, name)];
            w = half_split(w, c.head_dim);
        }
    return model;
}

}  // namespace uipe::llama
