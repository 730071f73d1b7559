// uipe convert, uipe inspect.
#include <cstdio>

#include "llama/llama2c.h"
#include "llama/weights.h"
#include "unlearn/cli/command.h"
#include "unlearn/session.h"

namespace uipe::unlearn {
namespace {

tensor::DType save_type(const std::string& name) {
    require_input(name == "f32" || name == "bf16", "unknown --save-dtype '", name, "'; known: f32, bf16");
    return name == "bf16" ? tensor::DType::bf16 : tensor::DType::f32;
}

void require_free(const fs::path& out, double shard_gb) {
    require_input(shard_gb > 0 && shard_gb < 1e6, "--shard-gb must be positive");
    require_input(!fs::exists(out) || fs::is_empty(out), out.string(), ": exists already; choose another folder");
}

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
        require_input(!llama::is_adapter(a.from), a.from.string(), ": is an adapter; uipe merge makes a model of it");
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
    if (a.save_dtype != "as is") dtype = save_type(a.save_dtype);
    require_free(a.to, a.shard_gb);
    llama::write_model(a.to, config, weights, tokenizer, dtype, static_cast<std::int64_t>(a.shard_gb * 1e9));
    return Json{{"out", a.to.string()}, {"parameters", llama::parameter_count(config)}};
}

struct MergeArguments {
    fs::path adapter, base, out;
    std::string save_dtype = "f32";
    double shard_gb = 5.0;
};

Json merge(const MergeArguments& a) {
    require_input(llama::is_adapter(a.adapter), a.adapter.string(),
                  ": is no adapter folder; it has no adapter_config.json");
    const tensor::DType dtype = save_type(a.save_dtype);
    require_free(a.out, a.shard_gb);
    const fs::path base = base_of(a.adapter, a.base);
    const llama::Config config = llama::read_config(base);
    const llama::StateDict weights = load_weights(base, config);
    const llama::StateDict sum = llama::merged(weights, llama::read_adapter(a.adapter, config));
    llama::check_finite(sum, cat(a.adapter.string(), ", merged"));
    llama::write_model(a.out, config, sum, fs::exists(base / "tokenizer.model") ? base : fs::path(), dtype,
                       static_cast<std::int64_t>(a.shard_gb * 1e9));
    return Json{{"out", a.out.string()}, {"base", base.string()}};
}

Json description(const llama::LoraConfig& c) {
    return {{"rank", c.rank}, {"alpha", c.alpha}, {"dropout", c.dropout}, {"targets", c.targets}, {"base", c.base}};
}

Json inspect(const fs::path& path, const fs::path& base, bool json) {
    llama::StateDict weights;
    Json out;
    if (llama::is_adapter(path)) {
        llama::Adapter adapter = llama::read_adapter(path, llama::read_config(base_of(path, base)));
        out = description(adapter.config);
        weights = std::move(adapter.weights);
        std::int64_t n = 0;
        for (const auto& [name, w] : weights) n += w.numel();
        out["parameters"] = n;
    } else if (fs::is_directory(path)) {
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
    struct Arguments {
        fs::path model, base;
    };
    const auto a = std::make_shared<Arguments>();
    const auto common = std::make_shared<Common>();
    CLI::App* c = add_command(app, "inspect", "Show sizes, types, shapes and the parameter count of a model", common,
                              [a, common](const CLI::App&) { return inspect(a->model, a->base, common->json); });
    c->add_option("model", a->model, "Model or adapter folder, or a safetensors file")->required();
    add_base_option(*c, a->base);
}

void add_merge(CLI::App& app) {
    const auto a = std::make_shared<MergeArguments>();
    const auto common = std::make_shared<Common>();
    CLI::App* c =
        add_command(app, "merge", "Add an adapter to its model: a model folder", common, [a, common](const CLI::App&) {
            const Json result = merge(*a);
            if (prints_text(*common)) std::printf("%s\n", a->out.c_str());
            return result;
        });
    c->add_option("adapter", a->adapter, "Adapter folder")->required();
    c->add_option("--out", a->out, "Model folder to write")->required();
    add_base_option(*c, a->base);
    c->add_option("--save-dtype", a->save_dtype, "f32, or bf16, which loses what is less than half its ulp");
    c->add_option("--shard-gb", a->shard_gb, "Size of a safetensors file at most, in 10^9 bytes");
}

}  // namespace uipe::unlearn
