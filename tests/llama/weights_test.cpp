#include "llama/weights.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "support.h"
#include "tensor/base/json.h"

namespace uipe::llama {
namespace {

using tensor::DType;
using tensor::Tensor;

void expect_equal(const StateDict& a, const StateDict& b) {
    ASSERT_EQ(a.size(), b.size());
    for (const auto& [name, t] : a) {
        const Tensor& u = b.at(name);
        ASSERT_EQ(u.shape(), t.shape()) << name;
        ASSERT_EQ(u.dtype(), t.dtype()) << name;
        EXPECT_EQ(std::memcmp(u.raw(), t.raw(), t.nbytes()), 0) << name;
    }
}

/// The fault of reading a folder whose single file holds `weights`.
std::string fault(const Config& config, const StateDict& weights) {
    const TemporaryFolder folder;
    write_safetensors(folder / "model.safetensors", weights);
    return message_of([&] { read_weights(folder.path(), config); });
}

TEST(Weights, ComeBackFromOneFile) {
    const TemporaryFolder folder;
    const Config config = small_config();
    const StateDict weights = random_weights(config);
    write_model(folder / "m", config, weights);
    EXPECT_EQ(read_config(folder / "m"), config);
    expect_equal(read_weights(folder / "m", config), weights);
    EXPECT_FALSE(fs::exists(folder / "m" / "model.safetensors.index.json"));
    const Json generation = read_json(folder / "m" / "generation_config.json");
    EXPECT_EQ(generation["eos_token_id"], Json({2}));
}

TEST(Weights, ComeBackFromShards) {
    const TemporaryFolder folder;
    const Config config = small_config();
    const StateDict weights = random_weights(config);
    write_model(folder / "m", config, weights, {}, {}, 2000);
    EXPECT_FALSE(fs::exists(folder / "m" / "model.safetensors"));
    const Json index = read_json(folder / "m" / "model.safetensors.index.json");
    EXPECT_EQ(index["metadata"]["total_size"], parameter_count(config) * 4);
    EXPECT_EQ(index["weight_map"].size(), weights.size());
    int shards = 0;
    for (const auto& entry : fs::directory_iterator(folder / "m"))
        if (entry.path().extension() == ".safetensors") {
            ++shards;
            std::size_t bytes = 0;
            for (const auto& [name, t] : read_safetensors(entry.path())) bytes += t.nbytes();
            EXPECT_LE(bytes, 2000U) << entry.path();
        }
    EXPECT_GT(shards, 3);
    expect_equal(read_weights(folder / "m", config), weights);
}

TEST(Weights, TheConfigSaysTheirType) {
    const TemporaryFolder folder;
    const Config config = small_config();
    StateDict weights = random_weights(config);
    for (auto& [name, t] : weights) t = t.to(DType::bf16);
    write_model(folder / "m", config, weights);
    EXPECT_EQ(read_config(folder / "m").torch_dtype, "bfloat16");
    expect_equal(read_weights(folder / "m", config), weights);
}

TEST(Weights, AModelMayReplaceTheOneItIsMappedFrom) {
    const TemporaryFolder folder;
    const Config config = small_config();
    const StateDict weights = random_weights(config);
    write_model(folder / "m", config, weights);
    const StateDict mapped = read_weights(folder / "m", config);
    write_model(folder / "m", config, mapped);
    expect_equal(mapped, weights);
    expect_equal(read_weights(folder / "m", config), weights);
}

TEST(Weights, NamesAMissingAnUnexpectedAndAMisshapenTensor) {
    const Config config = small_config();
    StateDict weights = random_weights(config);
    weights.erase("model.layers.1.mlp.up_proj.weight");
    EXPECT_SAYS(fault(config, weights), "model.layers.1.mlp.up_proj.weight of shape [20,12] is missing");
    weights = random_weights(config);
    weights.erase("lm_head.weight");
    EXPECT_SAYS(fault(config, weights), "tie_word_embeddings");
    weights = random_weights(config);
    weights["model.layers.2.mlp.up_proj.weight"] = Tensor::zeros({20, 12}, DType::f32);
    EXPECT_SAYS(fault(config, weights), "model.layers.2.mlp.up_proj.weight is no part of this model of 2 layers");
    weights = random_weights(config);
    weights["model.norm.weight"] = Tensor::zeros({13}, DType::f32);
    const std::string message = fault(config, weights);
    EXPECT_SAYS(message, "model.safetensors: tensor model.norm.weight has shape [13], config.json asks for [12]");
    weights["model.norm.weight"] = Tensor::zeros({12}, DType::i32);
    EXPECT_SAYS(fault(config, weights), "holds integers");
}

TEST(Weights, OldRotaryTablesAreIgnored) {
    const TemporaryFolder folder;
    const Config config = small_config();
    StateDict weights = random_weights(config);
    const StateDict expected = weights;
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = Tensor::zeros({2}, DType::f32);
    write_safetensors(folder / "model.safetensors", weights);
    expect_equal(read_weights(folder.path(), config), expected);
}

TEST(Weights, ATiedModelMayCarryItsHeadButNotAnother) {
    const TemporaryFolder folder;
    Config config = small_config();
    config.tie_word_embeddings = true;
    StateDict weights = random_weights(config);
    const StateDict expected = weights;
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"];
    write_safetensors(folder / "model.safetensors", weights);
    expect_equal(read_weights(folder.path(), config), expected);
    weights["lm_head.weight"] = Tensor::zeros({32, 12}, DType::f32);
    EXPECT_SAYS(fault(config, weights), "set tie_word_embeddings to false");
}

TEST(Weights, RefusesAnIndexThatLies) {
    const TemporaryFolder folder;
    const Config config = small_config();
    write_model(folder / "m", config, random_weights(config), {}, {}, 2000);
    const fs::path path = folder / "m" / "model.safetensors.index.json";
    const Json index = read_json(path);
    const auto fault_of = [&](const Json& file) {
        Json bad = index;
        bad["weight_map"]["lm_head.weight"] = file;
        write_json(path, bad);
        return message_of([&] { read_weights(folder / "m", config); });
    };
    for (const char* name : {"../x.safetensors", "/etc/passwd", "sub/x.safetensors", "..", "", "x.bin"})
        EXPECT_SAYS(fault_of(name), "plain name");
    EXPECT_SAYS(fault_of(7), "no file name");
    EXPECT_SAYS(fault_of("absent.safetensors"), "absent.safetensors");
    EXPECT_SAYS(fault_of(index["weight_map"]["model.norm.weight"]), "is missing");
    write_json(path, {{"weight_map", 1}});
    EXPECT_SAYS(message_of([&] { read_weights(folder / "m", config); }), "weight_map");
    // A copy of another shard: its tensors are there twice.
    const std::string shard = index["weight_map"]["model.norm.weight"];
    fs::copy_file(folder / "m" / shard, folder / "m" / "twice.safetensors");
    EXPECT_SAYS(fault_of("twice.safetensors"), "too; remove one");
}

TEST(Weights, RefusesAFolderWithoutWeights) {
    const TemporaryFolder folder;
    EXPECT_SAYS(message_of([&] { read_weights(folder.path(), small_config()); }), "neither model.safetensors");
    EXPECT_SAYS(message_of([&] { read_weights(folder / "absent", small_config()); }), "is no folder");
}

TEST(Weights, NamesTheElementThatIsNotFinite) {
    StateDict weights = random_weights(small_config());
    check_finite(weights, "m");
    weights.at("model.norm.weight").data<float>()[5] = std::numeric_limits<float>::infinity();
    EXPECT_SAYS(message_of([&] { check_finite(weights, "m"); }), "m: tensor model.norm.weight [12]");
    EXPECT_SAYS(message_of([&] { check_finite(weights, "m"); }), "element 5");
    weights.at("model.norm.weight").data<float>()[5] = std::nanf("");
    for (const DType dtype : {DType::f64, DType::bf16}) {
        weights["model.norm.weight"] = weights["model.norm.weight"].to(dtype);
        EXPECT_SAYS(message_of([&] { check_finite(weights, "m"); }), "element 5");
    }
}

TEST(Weights, AFailedWriteLeavesTheOldModel) {
    const TemporaryFolder folder;
    const Config config = small_config();
    const StateDict weights = random_weights(config);
    write_model(folder / "m", config, weights);
    StateDict wrong = weights;
    wrong.erase("model.norm.weight");
    message_of<Error>([&] { write_model(folder / "m", config, wrong); });
    message_of([&] { write_model(folder / "m", config, weights, folder / "absent.model"); });
    expect_equal(read_weights(folder / "m", config), weights);
    EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1);
}

TEST(Weights, TheTokenizerTravelsAlong) {
    const auto data = real_data();
    if (!data) GTEST_SKIP() << "set UIPE_DATA to the folder of real data";
    const TemporaryFolder folder;
    const Config config = small_config();
    const fs::path file = *data / "stories260K" / "tok512.model";
    write_model(folder / "m", config, random_weights(config), file);
    EXPECT_EQ(read_file(folder / "m" / "tokenizer.model"), read_file(file));
    EXPECT_EQ(read_json(folder / "m" / "tokenizer_config.json")["eos_token"], "</s>");
}

}  // namespace
}  // namespace uipe::llama
