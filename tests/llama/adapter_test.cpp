// Adapters: peft's own against what peft computes, ours in its folders, and files that lie.
#include "llama/adapter.h"

#include <gtest/gtest.h>

#include "autograd/ops.h"
#include "llama/decoder.h"
#include "llama/generate.h"
#include "llama/logprobs.h"
#include "llama/weights.h"
#include "tensor/base/json.h"
#include "tests/llama/models.h"

namespace uipe::llama {
namespace {

using tensor::DType;
using tensor::Tensor;
using test::relative_distance;

const fs::path by_peft = fixtures / "lora";

LoraConfig lora_of(std::int64_t rank, const std::vector<std::string>& targets = lora_targets()) {
    return {rank, 1.5 * static_cast<double>(rank), 0.0, targets, ""};
}

/// One with a B that matters.
Adapter lively_adapter(const Config& model, const LoraConfig& config, double std = 0.2) {
    Adapter out = fresh_adapter(model, config, 3);
    std::uint64_t stream = 500;
    for (auto& [name, w] : out.weights)
        if (name.ends_with("lora_B.weight")) w = test::normal(w.shape(), stream++, std, DType::f32);
    return out;
}

Llama fixture_model(DType dtype) {
    const Config config = read_config(by_peft / read_lora_config(by_peft).base);
    Llama model(config, own_weights(read_weights(by_peft / read_lora_config(by_peft).base, config), dtype));
    model.set_adapter(read_adapter(by_peft, config));
    return model;
}

TEST(Adapter, LogitsAndGradientsArePefts) {
    const test::Threads one(1);
    std::vector<Sequence> sequences;
    for (const Json& s : read_json(fixtures / "llama/grouped/sequences.json"))
        sequences.push_back({s["ids"].get<std::vector<std::int32_t>>(), s["first_target"].get<std::int64_t>()});
    const Batch batch = pack(sequences);
    for (const auto& [dtype, file] : {std::pair(DType::f64, "f64"), std::pair(DType::f32, "f32")}) {
        const StateDict expected = read_safetensors(by_peft / cat(file, ".safetensors"));
        for (const Recompute recompute : {Recompute::none, Recompute::norm, Recompute::mlp, Recompute::block}) {
            Llama model = fixture_model(dtype);
            model.set_recompute(recompute);
            const Tensor logits = Tensor::empty({batch.T, model.config().vocab_size}, dtype);
            tensor::logits(logits, model.hidden(batch).value(), model.head().value());
            // The bounds of tests/llama/model_reference_test.cpp for two layers, twice: each product has two parts.
            const double unit = dtype == DType::f64 ? 0x1p-53 : 0x1p-24;
            EXPECT_LE(relative_distance(logits, expected.at("logits")), 200 * unit);
            backward(
                autograd::scale(autograd::sum(model.logprob(batch)), -1.0 / static_cast<double>(batch.num_targets)));
            std::size_t compared = 0;
            for (const nn::Parameter& p : model.parameters()) {
                if (!p.variable.requires_grad()) {
                    EXPECT_FALSE(p.variable.grad().defined()) << p.name;
                    continue;
                }
                EXPECT_LE(relative_distance(p.variable.grad(), expected.at("grad.base_model.model." + p.name)),
                          600 * unit)
                    << p.name;
                ++compared;
            }
            EXPECT_EQ(compared, 28U) << "two matrices beside each of seven, in two layers";
        }
    }
}

TEST(Adapter, ReadsWhatPeftSays) {
    const LoraConfig c = read_lora_config(by_peft);
    EXPECT_EQ(c.rank, 3);
    EXPECT_EQ(c.alpha, 5.0);
    EXPECT_EQ(c.dropout, 0.05);
    EXPECT_EQ(c.targets, lora_targets()) << "in the order of the forward pass, whatever the file's";
    EXPECT_EQ(c.base, "../llama/grouped");
    EXPECT_TRUE(is_adapter(by_peft));
    EXPECT_FALSE(is_adapter(fixtures / "llama/grouped"));
}

TEST(Adapter, ComesBackFromItsFolder) {
    const TemporaryFolder folder;
    const Config model = small_config();
    for (const auto& targets :
         {std::vector<std::string>{"q_proj", "v_proj"}, lora_targets(), std::vector<std::string>{"down_proj"}}) {
        LoraConfig config = lora_of(2, targets);
        config.dropout = 0.125;
        config.base = "some/where";
        const Adapter adapter = lively_adapter(model, config);
        write_adapter(folder / "a", adapter);
        EXPECT_EQ(read_lora_config(folder / "a"), config);
        const Adapter back = read_adapter(folder / "a", model);
        ASSERT_EQ(back.weights.size(), adapter.weights.size());
        EXPECT_EQ(back.weights.size(), 4 * targets.size());
        for (const auto& [name, w] : adapter.weights) EXPECT_TRUE(test::same_bits(back.weights.at(name), w)) << name;
    }
    write_adapter(folder / "a", lively_adapter(model, lora_of(1)), DType::bf16);
    for (const auto& [name, w] : read_adapter(folder / "a", model).weights) EXPECT_EQ(w.dtype(), DType::bf16);
    const Json json = read_json(folder / "a/adapter_config.json");
    EXPECT_EQ(json["peft_type"], "LORA");
    EXPECT_EQ(json["task_type"], "CAUSAL_LM");
    EXPECT_EQ(json["base_model_name_or_path"], Json());
    EXPECT_EQ(json["lora_alpha"], 1.5);
}

TEST(Adapter, AFreshOneIsUniformAndDoesNothing) {
    const Config model = small_config();
    const Adapter all = fresh_adapter(model, lora_of(4), 3);
    EXPECT_TRUE(is_zero(all));
    EXPECT_FALSE(is_zero(lively_adapter(model, lora_of(4))));
    for (const auto& [name, a] : all.weights) {
        if (!name.ends_with("lora_A.weight")) continue;
        const double bound = 1.0 / std::sqrt(static_cast<double>(a.dim(1)));
        double most = 0;
        for (const double v : test::doubles(a)) most = std::max(most, std::abs(v));
        EXPECT_LE(most, bound);
        EXPECT_GT(most, 0.8 * bound) << "48 draws and more";
    }
    const Adapter some = fresh_adapter(model, lora_of(4, {"v_proj"}), 3);
    for (const auto& [name, w] : some.weights) EXPECT_TRUE(test::same_bits(w, all.weights.at(name))) << name;
    const std::string a = "model.layers.1.self_attn.v_proj.lora_A.weight";
    EXPECT_FALSE(test::same_bits(fresh_adapter(model, lora_of(4), 4).weights.at(a), all.weights.at(a)));

    Llama adapted = lively_model(model, DType::f32);
    const Batch batch = pack(random_sequences(model, {9, 5}));
    const Tensor before = adapted.hidden(batch).value();
    adapted.set_adapter(all);
    EXPECT_LE(test::apart(adapted.hidden(batch).value(), before), 0.0);
}

/// The model of lively weights with an adapter, and the one with the products added to the weights.
struct Pair {
    Llama adapted, merged_model;
};

Pair pair_of(DType dtype, const std::vector<std::string>& targets) {
    const Config config = small_config();
    const Adapter adapter = lively_adapter(config, lora_of(3, targets));
    const StateDict weights = lively_weights(config, dtype);
    Pair out{{config, weights}, {config, moved_weights(merged(weights, adapter), dtype)}};
    out.adapted.set_adapter(adapter);
    return out;
}

TEST(Adapter, MergedWeightsGiveTheSameModel) {
    const Batch batch = pack(random_sequences(small_config(), {9, 5, 12}));
    for (const auto& targets :
         {std::vector<std::string>{"q_proj"}, {"k_proj", "o_proj"}, {"gate_proj", "down_proj"}, lora_targets()})
        for (const auto& [dtype, tolerance] : {std::pair(DType::f64, 1e-13), std::pair(DType::f32, 1e-5)}) {
            const Pair p = pair_of(dtype, targets);
            EXPECT_LE(test::apart(p.adapted.logprob(batch).value(), p.merged_model.logprob(batch).value()), tolerance);
        }
    // The matrices without an adapter, and all norms, are shared.
    const StateDict weights = lively_weights(small_config(), DType::f32);
    for (const auto& [name, w] : merged(weights, lively_adapter(small_config(), lora_of(2, {"up_proj"}))))
        EXPECT_EQ(w.raw() == weights.at(name).raw(), name.find("up_proj") == std::string::npos) << name;
}

TEST(Adapter, GenerationAndScoringAnswerWithIt) {
    const test::Threads one(1);
    const std::vector<Sequence> rows = random_sequences(small_config(), {9, 5, 12, 4, 20, 7});
    std::vector<std::vector<std::int32_t>> prompts;
    for (const Sequence& s : rows) prompts.push_back(s.ids);
    GenerateOptions options;
    options.max_new_tokens = 12;
    options.stop_at_eos = false;
    for (const std::int64_t slots : {1, 6}) {  // read as they lie, and packed
        options.batch_size = slots;
        const Pair p = pair_of(DType::f64, lora_targets());
        EXPECT_EQ(generate(p.adapted, prompts, options), generate(p.merged_model, prompts, options));
        const Llama bare(small_config(), lively_weights(small_config(), DType::f64));
        EXPECT_NE(generate(p.adapted, prompts, options), generate(bare, prompts, options)) << "the adapter matters";
    }
    const Pair p = pair_of(DType::f64, lora_targets());
    const auto got = token_logprobs(p.adapted, rows);
    const auto want = token_logprobs(p.merged_model, rows);
    for (std::size_t i = 0; i < got.size(); ++i)
        for (std::size_t t = 0; t < got[i].size(); ++t) EXPECT_NEAR(got[i][t], want[i][t], 1e-12);
}

/// In bf16 an update of a tenth of an ulp of the weights is nothing to merged weights. It must not be to generation,
/// whose hidden states then are those of the training pass.
TEST(Adapter, GenerationInBf16AnswersWithIt) {
    const test::Threads one(1);
    const Config config = small_config();
    Llama model = lively_model(config, DType::bf16);
    model.set_adapter(lively_adapter(config, lora_of(3), 0.2));
    const Batch batch = pack(random_sequences(config, {9}));
    const Tensor want = model.hidden(batch).value();
    Decoder decoder(model, 1, 16);
    const Tensor got = decoder.prefill(batch, {0});
    // Two layers of sums, each rounded to bf16 once more or less.
    EXPECT_LE(relative_distance(got, want.rows(batch.T - 1, batch.T)), 16.0 / 256.0);
}

TEST(Adapter, NamesFollowPeft) {
    const Config config = small_config();
    Llama model = lively_model(config, DType::f32);
    const std::size_t all = model.parameters().size();
    EXPECT_EQ(model.trainable().size(), all);
    model.set_adapter(lively_adapter(config, lora_of(2, {"q_proj", "down_proj"})));
    EXPECT_EQ(model.parameters().size(), all + 8);
    EXPECT_EQ(model.weights().size(), all);
    std::vector<std::string> names;
    for (const nn::Parameter& p : model.trainable()) names.push_back(p.name);
    EXPECT_EQ(names,
              (std::vector<std::string>{
                  "model.layers.0.self_attn.q_proj.lora_A.weight", "model.layers.0.self_attn.q_proj.lora_B.weight",
                  "model.layers.0.mlp.down_proj.lora_A.weight", "model.layers.0.mlp.down_proj.lora_B.weight",
                  "model.layers.1.self_attn.q_proj.lora_A.weight", "model.layers.1.self_attn.q_proj.lora_B.weight",
                  "model.layers.1.mlp.down_proj.lora_A.weight", "model.layers.1.mlp.down_proj.lora_B.weight"}));
}

TEST(Adapter, TheReferenceStaysAsItWasAndSharesTheWeights) {
    const Config config = small_config();
    const Batch batch = pack(random_sequences(config, {9, 5}));
    for (const bool fresh : {false, true}) {
        Llama model = lively_model(config, DType::f32);
        LoraConfig lora = lora_of(2);
        lora.dropout = 0.5;
        model.set_adapter(fresh ? fresh_adapter(config, lora, 1) : lively_adapter(config, lora));
        const Tensor before = model.hidden(batch).value();
        const Llama reference = model.reference();
        for (const nn::Parameter& p : model.trainable()) tensor::fill(p.variable.value(), 0.3);
        EXPECT_GT(test::apart(model.hidden(batch).value(), before), 1e-2);
        EXPECT_TRUE(test::same_bits(reference.hidden(batch).value(), before));
        EXPECT_EQ(reference.lora().has_value(), !fresh) << "an adapter that does nothing is left out";
        EXPECT_TRUE(reference.trainable().empty());
        const StateDict weights = model.weights();
        for (const auto& [name, w] : reference.weights()) EXPECT_EQ(w.raw(), weights.at(name).raw()) << name;
        // Nothing is dropped from what others are compared with.
        std::vector<Sequence> placed = random_sequences(config, {9, 5});
        placed[0].place = 0;
        placed[1].place = 8;
        EXPECT_TRUE(test::same_bits(reference.hidden(pack(placed)).value(), before));
    }
    const Llama plain = lively_model(config, DType::f32);
    EXPECT_THROW((void)plain.reference(), Error);
}

TEST(Adapter, OneForAnotherModelIsRefused) {
    Config wider = small_config();
    wider.intermediate_size += 4;
    Config deeper = small_config();
    ++deeper.num_layers;
    Llama model = lively_model(small_config(), DType::f32);
    EXPECT_THROW(model.set_adapter(lively_adapter(wider, lora_of(2))), Error);
    EXPECT_THROW(model.set_adapter(lively_adapter(deeper, lora_of(2))), Error);
    const TemporaryFolder folder;
    write_adapter(folder / "a", lively_adapter(wider, lora_of(2)));
    const std::string shapes = message_of([&] { read_adapter(folder / "a", small_config()); });
    EXPECT_SAYS(shapes, "adapter_model.safetensors: tensor \"base_model.model.model.layers.0.mlp.");
    EXPECT_SAYS(shapes, "[2,24]");
    EXPECT_SAYS(shapes, "[2,20]");
    write_adapter(folder / "a", lively_adapter(deeper, lora_of(2)));
    EXPECT_SAYS(message_of([&] { read_adapter(folder / "a", small_config()); }),
                "no part of this adapter of a model of 2");
    write_adapter(folder / "a", lively_adapter(small_config(), lora_of(2)));
    EXPECT_SAYS(message_of([&] { read_adapter(folder / "a", deeper); }), "is missing");
}

// --- Files that lie ---

class Hostile : public ::testing::Test {
protected:
    /// The message for a folder whose config has `key` set to `value`.
    std::string with(const std::string& key, const Json& value) {
        Json json = config_;
        json[key] = value;
        write_json(folder_ / "a/adapter_config.json", json);
        return message_of([&] { read_adapter(folder_ / "a", small_config()); });
    }
    std::string with_text(const std::string& text) {
        write_file(folder_ / "a/adapter_config.json", text);
        return message_of([&] { read_adapter(folder_ / "a", small_config()); });
    }
    std::string with_weights(const StateDict& weights) {
        write_safetensors(folder_ / "a/adapter_model.safetensors", weights);
        return message_of([&] { read_adapter(folder_ / "a", small_config()); });
    }

    const TemporaryFolder folder_;
    const Json config_ = [this] {
        write_adapter(folder_ / "a", lively_adapter(small_config(), lora_of(2, {"q_proj"})));
        return read_json(folder_ / "a/adapter_config.json");
    }();
};

TEST_F(Hostile, SettingsThatChangeTheProductAreNamed) {
    EXPECT_SAYS(with("peft_type", "IA3"), "adapter_config.json: peft_type is \"IA3\"");
    EXPECT_SAYS(with("task_type", "SEQ_CLS"), "task_type");
    EXPECT_SAYS(with("bias", "all"), "bias");
    for (const char* key : {"use_dora", "fan_in_fan_out", "lora_bias", "use_qalora"}) EXPECT_SAYS(with(key, true), key);
    EXPECT_SAYS(with("rank_pattern", Json{{"q_proj", 4}}), "rank_pattern is {\"q_proj\":4}");
    EXPECT_SAYS(with("alpha_pattern", Json{{"q_proj", 4}}), "alpha_pattern");
    EXPECT_SAYS(with("layers_to_transform", Json{0}), "layers_to_transform");
    EXPECT_SAYS(with("modules_to_save", Json{"lm_head"}), "modules_to_save");
    EXPECT_SAYS(with("exclude_modules", "k_proj"), "exclude_modules");
    for (const char* init : {"pissa", "olora", "loftq", "corda"}) EXPECT_SAYS(with("init_lora_weights", init), init);
}

TEST_F(Hostile, NumbersOutOfRange) {
    for (const Json& r : {Json(0), Json(-4), Json(1 << 21), Json(2.5), Json("8"), Json(std::uint64_t{1} << 63)})
        EXPECT_SAYS(with("r", r), "adapter_config.json");
    EXPECT_SAYS(with("r", 4), "has shape [2,12]");
    for (const Json& alpha : {Json(0), Json("8")}) EXPECT_SAYS(with("lora_alpha", alpha), "alpha");
    EXPECT_SAYS(with_text(R"({"peft_type":"LORA","r":2,"lora_alpha":1e999,"target_modules":["q_proj"]})"),
                "adapter_config.json");
    for (const double p : {-0.1, 1.0}) EXPECT_SAYS(with("lora_dropout", p), "dropout");
}

TEST_F(Hostile, Targets) {
    EXPECT_SAYS(with("target_modules", Json{"lm_head"}), "unknown target \"lm_head\"");
    EXPECT_SAYS(with("target_modules", Json{"q_proj\nuipe: all is well"}), "unknown target \"q_proj\\nuipe");
    EXPECT_SAYS(with("target_modules", Json{"q_proj", "q_proj"}), "twice");
    EXPECT_SAYS(with("target_modules", Json::array()), "needs a matrix");
    EXPECT_SAYS(with("target_modules", ".*q_proj"), "target_modules is \".*q_proj\"");
    EXPECT_SAYS(with("target_modules", Json{1}), "names are needed");
    EXPECT_SAYS(with("target_modules", Json()), "target_modules is missing");
    EXPECT_SAYS(with("target_modules", "all-linear"), "is missing") << "the weights of the others";
}

TEST_F(Hostile, FilesThatAreNoAdapters) {
    EXPECT_SAYS(with_text("[]"), "a JSON object is needed");
    EXPECT_SAYS(with_text("{"), "JSON fault");
    EXPECT_SAYS(with_text("{}"), "target_modules");
    EXPECT_SAYS(with_text(std::string(100000, '[')), "deeper than 512");
    fs::remove(folder_ / "a/adapter_model.safetensors");
    write_json(folder_ / "a/adapter_config.json", config_);
    EXPECT_SAYS(message_of([&] { read_adapter(folder_ / "a", small_config()); }), "has no adapter_model.safetensors");
    write_file(folder_ / "a/adapter_model.safetensors", "12345678");
    EXPECT_SAYS(message_of([&] { read_adapter(folder_ / "a", small_config()); }), "byte 0");
}

TEST_F(Hostile, MatricesThatAreNotAskedFor) {
    const StateDict good = read_safetensors(folder_ / "a/adapter_model.safetensors");
    StateDict copy;
    for (const auto& [name, w] : good) copy[name] = w.clone();
    const std::string a = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    const auto changed = [&](const std::string& name, const Tensor& w) {
        StateDict weights = copy;
        weights[name] = w;
        return with_weights(weights);
    };
    EXPECT_SAYS(changed("base_model.model.lm_head.lora_A.weight", Tensor::zeros({2, 12}, DType::f32)), "lm_head");
    EXPECT_SAYS(changed("model.layers.0.self_attn.q_proj.lora_A.weight", Tensor::zeros({2, 12}, DType::f32)),
                "no part of this adapter");
    EXPECT_SAYS(changed(a, Tensor::zeros({12, 2}, DType::f32)), "[12,2]");
    EXPECT_SAYS(changed(a, Tensor::zeros({24}, DType::f32)), "[24]");
    EXPECT_SAYS(changed(a, Tensor::zeros({2, 12}, DType::i32)), "integers");
    EXPECT_SAYS(changed(a, Tensor::full({2, 12}, DType::f32, std::nan(""))), "NaN or infinity");
    StateDict fewer = copy;
    fewer.erase(a);
    EXPECT_SAYS(with_weights(fewer), a + " of shape [2,12] is missing");
}

TEST_F(Hostile, RsLoraDividesByTheRoot) {
    Json json = config_;
    json["use_rslora"] = true;
    write_json(folder_ / "a/adapter_config.json", json);
    EXPECT_DOUBLE_EQ(read_lora_config(folder_ / "a").scale(), 3.0 / std::sqrt(2.0));
}

}  // namespace
}  // namespace uipe::llama
