#include "llama/weights.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <set>
#include <span>
#include <vector>

#include "llama/tokenizer.h"
#include "tensor/base/error.h"
#include "tensor/base/json.h"
#include "tensor/ops.h"

namespace uipe::llama {
namespace {

using tensor::DType;
using tensor::Tensor;

constexpr const char* single_name = "model.safetensors";
constexpr const char* index_name = "model.safetensors.index.json";
constexpr const char* head_name = "lm_head.weight";
constexpr const char* embedding_name = "model.embed_tokens.weight";

/// Tensor name -> file name, as the index says. The file names are checked: plain names inside the folder.
std::map<std::string, std::string> read_index(const fs::path& path) {
    const Json json = read_json(path);
    const Json* map = json.is_object() && json.contains("weight_map") ? &json["weight_map"] : nullptr;
    require_input(map != nullptr && map->is_object(), path.string(), ": no object weight_map; fetch the index again");
    std::map<std::string, std::string> files;
    for (const auto& [name, file] : map->items()) {
        require_input(file.is_string(), path.string(), ": weight_map of ", name, " is no file name");
        const fs::path plain = file.get<std::string>();
        require_input(plain.has_filename() && plain == plain.filename() && plain.string().ends_with(".safetensors"),
                      path.string(), ": weight_map of ", name, " is ", plain,
                      "; the plain name of a .safetensors file is needed");
        files[name] = plain.string();
    }
    return files;
}

/// The tensors of a folder, and the file of each for messages.
struct Found {
    StateDict weights;
    std::map<std::string, std::string> files;
};

void add_file(Found& found, const fs::path& file) {
    for (auto& [name, tensor] : read_safetensors(file)) {
        const auto [entry, fresh] = found.files.emplace(name, file.string());
        require_input(fresh, file.string(), ": tensor ", name, " is in ", entry->second, " too; remove one");
        found.weights[name] = tensor;
    }
}

Found read_files(const fs::path& folder) {
    Found found;
    if (fs::exists(folder / single_name)) {
        add_file(found, folder / single_name);
        return found;
    }
    const fs::path index_path = folder / index_name;
    require_input(fs::exists(index_path), folder.string(), ": neither ", single_name, " nor ", index_name,
                  "; convert the model to safetensors or name its folder");
    const std::map<std::string, std::string> index = read_index(index_path);
    std::set<std::string> files;
    for (const auto& [name, file] : index) files.insert(file);
    for (const std::string& file : files) add_file(found, folder / file);
    for (const auto& [name, file] : index) {
        const auto entry = found.files.find(name);
        require_input(entry != found.files.end() && entry->second == (folder / file).string(), (folder / file).string(),
                      ": tensor ", name, ", which ", index_name, " puts here, is missing; fetch both again");
    }
    return found;
}

/// A tied model's file may hold the head once more; a head that differs means that the model is not tied.
void drop_tied_head(StateDict& weights, const fs::path& folder) {
    const auto head = weights.find(head_name);
    const auto embedding = weights.find(embedding_name);
    if (head == weights.end() || embedding == weights.end()) return;
    const Tensor& a = head->second;
    const Tensor& b = embedding->second;
    const bool same =
        a.dtype() == b.dtype() && a.shape() == b.shape() && std::memcmp(a.raw(), b.raw(), a.nbytes()) == 0;
    require_input(same, folder.string(), ": ", head_name, " ", tensor::to_string(a.shape()), " is not equal to ",
                  embedding_name, " ", tensor::to_string(b.shape()),
                  "; set tie_word_embeddings to false in config.json");
    weights.erase(head);
}

/// Throws Fault unless the tensors have exactly the expected names and shapes, and float elements.
template <class Fault>
void check_weights(const Found& found, const Config& config, const std::string& where) {
    const auto expected = expected_weights(config);
    for (const auto& [name, shape] : expected)
        if (found.weights.count(name) == 0)
            throw Fault(cat(where, ": tensor ", name, " of shape ", tensor::to_string(shape), " is missing; does ",
                            name == head_name ? "tie_word_embeddings in " : "", "config.json fit these weights?"));
    for (const auto& [name, t] : found.weights) {
        const auto file = found.files.find(name);
        const std::string place = cat(file == found.files.end() ? where : file->second, ": tensor ", name);
        const auto entry = expected.find(name);
        if (entry == expected.end())
            throw Fault(cat(place, " is no part of this model of ", config.num_layers,
                            " layers; does config.json fit these weights?"));
        if (t.shape() != entry->second)
            throw Fault(cat(place, " has shape ", tensor::to_string(t.shape()), ", config.json asks for ",
                            tensor::to_string(entry->second)));
        if (t.dtype() == DType::i32) throw Fault(cat(place, " holds integers; floating-point weights are needed"));
    }
}

template <class T>
std::int64_t first_not_finite(const Tensor& t) {
    const T* begin = t.data<T>();
    return std::find_if(begin, begin + t.numel(), [](T x) { return !std::isfinite(static_cast<double>(x)); }) - begin;
}

std::int64_t first_not_finite(const Tensor& t) {
    switch (t.dtype()) {
        case DType::f64:
            return first_not_finite<double>(t);
        case DType::bf16:
            return first_not_finite<tensor::bf16>(t);
        case DType::f32:
        case DType::i32:
            break;
    }
    return first_not_finite<float>(t);
}

/// The name that PyTorch gives a type.
const char* torch_name(DType dtype) {
    switch (dtype) {
        case DType::f64:
            return "float64";
        case DType::bf16:
            return "bfloat16";
        case DType::f32:
        case DType::i32:
            break;
    }
    return "float32";
}

/// The bytes of a tensor when it is written in `dtype`, or else as it is.
std::int64_t bytes_of(const Tensor& t, std::optional<DType> dtype) {
    return t.numel() * static_cast<std::int64_t>(tensor::size_of(dtype.value_or(t.dtype())));
}

/// Cuts the weights, in order of name, into parts of at most `limit` bytes or of one tensor.
std::vector<StateDict> shards_of(const StateDict& weights, std::optional<DType> dtype, std::int64_t limit) {
    std::vector<StateDict> shards(1);
    std::int64_t bytes = 0;
    for (const auto& [name, tensor] : weights) {
        const std::int64_t size = bytes_of(tensor, dtype);
        if (!shards.back().empty() && bytes + size > limit) {
            shards.emplace_back();
            bytes = 0;
        }
        shards.back()[name] = tensor;
        bytes += size;
    }
    return shards;
}

void write_shards(const fs::path& folder, const std::vector<StateDict>& shards, std::optional<DType> dtype,
                  const Fetch& fetch) {
    const std::map<std::string, std::string> metadata{{"format", "pt"}};
    if (shards.size() == 1) return write_safetensors(folder / single_name, shards.front(), dtype, metadata, fetch);
    Json files = Json::object();
    std::int64_t bytes = 0;
    for (std::size_t i = 0; i < shards.size(); ++i) {
        char name[64];
        std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", i + 1, shards.size());
        write_safetensors(folder / name, shards[i], dtype, metadata, fetch);
        for (const auto& [weight, tensor] : shards[i]) {
            files[weight] = name;
            bytes += bytes_of(tensor, dtype);
        }
    }
    write_json(folder / index_name, {{"metadata", {{"total_size", bytes}}}, {"weight_map", files}});
}

void write_generation_config(const fs::path& folder, const Config& config) {
    write_json(folder / "generation_config.json",
               {{"bos_token_id", config.bos_token_id}, {"eos_token_id", config.eos_token_ids}, {"do_sample", false}});
}

void write_tokenizer(const fs::path& folder, const Tokenizer& tokenizer, const Config& config) {
    write_file(folder / "tokenizer.model", read_file(tokenizer.file()));
    const auto piece = [&](std::int32_t id) { return tokenizer.pieces(std::span(&id, 1)).front(); };
    write_json(folder / "tokenizer_config.json", {{"tokenizer_class", "LlamaTokenizer"},
                                                  {"add_bos_token", true},
                                                  {"add_eos_token", false},
                                                  {"bos_token", piece(tokenizer.bos_id())},
                                                  {"eos_token", piece(tokenizer.eos_id())},
                                                  {"unk_token", piece(tokenizer.unk_id())},
                                                  {"clean_up_tokenization_spaces", false},
                                                  {"legacy", true},
                                                  {"model_max_length", config.max_position_embeddings}});
}

}  // namespace

StateDict read_weights(const fs::path& folder, const Config& config) {
    require_input(fs::is_directory(folder), folder.string(), ": is no folder; name a model folder");
    Found found = read_files(folder);
    // Old files carry the rotary frequencies, which follow from rope_theta.
    std::erase_if(found.weights, [](const auto& item) { return item.first.ends_with("rotary_emb.inv_freq"); });
    if (config.tie_word_embeddings) drop_tied_head(found.weights, folder);
    check_weights<InputError>(found, config, folder.string());
    return std::move(found.weights);
}

void check_finite(const StateDict& weights, const std::string& where) {
    for (const auto& [name, t] : weights)
        if (t.dtype() != DType::i32 && !tensor::all_finite(t))
            throw InputError(cat(where, ": tensor ", name, " ", tensor::to_string(t.shape()),
                                 " holds NaN or infinity at element ", first_not_finite(t),
                                 "; the weights are broken or training has diverged"));
}

void write_model(const fs::path& folder, const Config& config, const StateDict& weights, const fs::path& tokenizer,
                 std::optional<DType> dtype, std::int64_t max_shard_bytes, const Fetch& fetch) {
    check_weights<Error>({weights, {}}, config, folder.string());
    Config written = config;
    written.torch_dtype = torch_name(dtype.value_or(weights.at(embedding_name).dtype()));
    write_folder(folder, [&](const fs::path& temporary) {
        write_config(temporary, written);
        write_generation_config(temporary, config);
        write_shards(temporary, shards_of(weights, dtype, max_shard_bytes), dtype, fetch);
        if (!tokenizer.empty()) write_tokenizer(temporary, Tokenizer::load(tokenizer), config);
    });
}

}  // namespace uipe::llama
