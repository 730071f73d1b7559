// uipe convert, uipe inspect.
#include <cstdio>

#include "llama/llama2c.h"
#include "llama/weights.h"
#include "unlearn/cli/command.h"
#include "unlearn/session.h"

namespace uipe::unlearn {
namespace {

struct ConvertArguments {
    fs::path from, to, tokenizer;
    std::string save_dtype = "as is";
    double shard_gb = 5.0;
};

Json convert(const ConvertArguments& a) {
    llama::Config config;
    llama::StateDict weights;
    fs::path tokenizer = a.tokenizer;
    if (fs::is_directory(a.from)) {
        config = llama::read_config(a.from);
        weights = load_weights(a.from, config);
        if (tokenizer.empty() && fs::exists(a.from / "tokenizer.model")) tokenizer = a.from;
    } else {
        llama::Llama2cModel model = llama::read_llama2c(a.from);
        config = model.config;
        weights = std::move(model.weights);
        llama::check_finite(weights, a.from.string());
    }
    if (!tokenizer.empty()) llama::check_tokenizer(llama::Tokenizer::load(tokenizer), config);
    std::optional<tensor::DType> dtype;
    if (a.save_dtype != "as is") {
        require_input(a.save_dtype == "f32" || a.save_dtype == "bf16", "unknown --save-dtype '", a.save_dtype,
                      "'; known: f32, bf16");
        dtype = a.save_dtype == "bf16" ? tensor::DType::bf16 : tensor::DType::f32;
    }
    require_input(a.shard_gb > 0 && a.shard_gb < 1e6, "--shard-gb must be positive");
    require_input(!fs::exists(a.to) || fs::is_empty(a.to), a.to.string(), ": exists already; choose another folder");
    llama::write_model(a.to, config, weights, tokenizer, dtype, static_cast<std::int64_t>(a.shard_gb * 1e9));
    return Json{{"out", a.to.string()}, {"parameters", llama::parameter_count(config)}};
}

Json inspect(const fs::path& path, bool json) {
    llama::StateDict weights;
    Json out;
    if (fs::is_directory(path)) {
        const llama::Config c = llama::read_config(path);
        weights = llama::read_weights(path, c);
        out = Json{{"hidden_size", c.hidden_size},   {"intermediate_size", c.intermediate_size},
                   {"num_layers", c.num_layers},     {"num_heads", c.num_heads},
                   {"num_kv_heads", c.num_kv_heads}, {"head_dim", c.head_dim},
                   {"vocab_size", c.vocab_size},     {"max_position_embeddings", c.max_position_embeddings},
                   {"rms_norm_eps", c.rms_norm_eps}, {"rope_theta", c.rope_theta},
                   {"tied", c.tie_word_embeddings},  {"parameters", llama::parameter_count(c)}};
    } else {
        weights = llama::read_safetensors(path);
        std::int64_t n = 0;
        for (const auto& [name, w] : weights) n += w.numel();
        out = Json{{"parameters", n}};
    }
    std::int64_t bytes = 0;
    for (const auto& [name, w] : weights) bytes += static_cast<std::int64_t>(w.nbytes());
    out["bytes"] = bytes;
    if (!json) {
        for (const auto& [key, value] : out.items()) std::printf("%-24s %s\n", key.c_str(), value.dump().c_str());
        for (const auto& [name, w] : weights)
            std::printf("%-52s %-4s %s\n", name.c_str(), tensor::name_of(w.dtype()),
                        tensor::to_string(w.shape()).c_str());
    }
    for (const auto& [name, w] : weights)
        out["tensors"][name] = Json{{"dtype", tensor::name_of(w.dtype())}, {"shape", w.shape()}};
    return out;
}

}  // namespace

void add_convert(CLI::App& app) {
    const auto a = std::make_shared<ConvertArguments>();
    const auto common = std::make_shared<Common>();
    CLI::App* c =
        add_command(app, "convert", "llama2.c .bin to a model folder; or a folder to another type or sharding", common,
                    [a, common](const CLI::App&) {
                        const Json result = convert(*a);
                        if (prints_text(*common)) std::printf("%s\n", result["out"].get<std::string>().c_str());
                        return result;
                    });
    c->add_option("from", a->from, "MODEL.bin of llama2.c, or a model folder")->required();
    c->add_option("to", a->to, "Model folder to write")->required();
    c->add_option("--tokenizer", a->tokenizer, "tokenizer.model to put into the folder");
    c->add_option("--save-dtype", a->save_dtype, "f32 or bf16; default: as the weights are");
    c->add_option("--shard-gb", a->shard_gb, "Size of a safetensors file at most, in 10^9 bytes");
}

void add_inspect(CLI::App& app) {
    const auto path = std::make_shared<fs::path>();
    const auto common = std::make_shared<Common>();
    CLI::App* c = add_command(app, "inspect", "Show sizes, types, shapes and the parameter count of a model", common,
                              [path, common](const CLI::App&) { return inspect(*path, common->json); });
    c->add_option("model", *path, "Model folder, or a safetensors file")->required();
}

}  // namespace uipe::unlearn
