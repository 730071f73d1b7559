// What a user can get wrong: one line that names the fault and its place, exit code 2, and nothing left behind.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "llama/tokenizer_trainer.h"
#include "tests/llama/support.h"
#include "tests/unlearn/program.h"

namespace uipe::unlearn::testing {
namespace {

/// The run must fail as bad input, in one line that holds every part, and write nothing: not even `--out refused`.
void expect_refused(const Words& words, const Words& parts) {
    std::string line;
    for (const std::string& word : words) line += word + " ";
    SCOPED_TRACE(line);
    const Result r = uipe(words);
    EXPECT_EQ(r.code, 2);
    EXPECT_EQ(r.out, "");
    EXPECT_TRUE(r.err.starts_with("uipe: ")) << r.err;
    EXPECT_EQ(std::count(r.err.begin(), r.err.end(), '\n'), 1) << r.err;
    for (const std::string& part : parts) EXPECT_SAYS(r.err, part);
    EXPECT_FALSE(fs::exists(playground() / "refused"));
    EXPECT_EQ(temporaries(), Words{});
    fs::remove_all(playground() / "refused");
}

/// Training on another data file.
Words train_on(const std::string& data) {
    return {"train", "--model", "base/model", "--data", data, "--out", "refused"};
}

Words train(const Words& more) { return train_on("world/full.json") + more; }

Words unlearn(const std::string& method, const Words& more) {
    return Words{"unlearn", "--model", "base/model", "--method", method, "--out", "refused"} + more;
}

void write(const std::string& name, const std::string& bytes) { write_file(playground() / name, bytes); }

/// A copy of base/model under another name, changed.
void write_model(const std::string& name, const std::function<void(const fs::path&)>& change) {
    const fs::path folder = playground() / name;
    fs::copy(playground() / "base/model", folder);
    change(folder);
}

TEST(BadInput, MissingFiles) {
    expect_refused({"train", "--model", "nowhere", "--data", "world/full.json", "--out", "refused"}, {"nowhere"});
    expect_refused(train_on("nowhere.json"), {"nowhere.json", "No such file"});
    expect_refused({"train", "--init", "init.json", "--tokenizer", "nowhere.model", "--data", "world/full.json",
                    "--out", "refused"},
                   {"nowhere.model", "No such file"});
    expect_refused({"train", "--init", "nowhere.json", "--tokenizer", "world/tokenizer.model", "--data",
                    "world/full.json", "--out", "refused"},
                   {"nowhere.json"});
    expect_refused(Words{"eval", "--model", "base/model", "--tofu", "nowhere", "--out", "refused"}, {"nowhere"});
    expect_refused(
        Words{"eval", "--model", "base/model", "--retain-log", "nowhere.json", "--out", "refused"} + evaluation(),
        {"nowhere.json"});
    expect_refused({"score", "--log", "nowhere.json"}, {"nowhere.json"});
    expect_refused(train({"--config", "nowhere.json"}), {"nowhere.json"});
    expect_refused({"extrapolate", "--base", "nowhere", "--unlearned", "base/model", "--out", "refused"}, {"nowhere"});
    expect_refused({"inspect", "nowhere"}, {"nowhere"});
    expect_refused({"convert", "nowhere.bin", "refused"}, {"nowhere.bin"});
    expect_refused({"report", "nowhere", "--out", "refused"}, {"nowhere"});
    write_model("half-a-model", [](const fs::path& folder) { fs::remove(folder / "model.safetensors"); });
    expect_refused({"logprobs", "--model", "half-a-model", "--qa", "world/full.json"},
                   {"half-a-model: neither model.safetensors"});
    write_model("mute", [](const fs::path& folder) { fs::remove(folder / "tokenizer.model"); });
    expect_refused({"generate", "--model", "mute", "--prompt", "a"}, {"mute/tokenizer.model"});
}

TEST(BadInput, FoldersAndBinariesWhereTextIsExpected) {
    expect_refused(train_on("world"), {"world: is a folder"});
    expect_refused(train({"--config", "world"}), {"world: is a folder"});
    expect_refused({"score", "--log", "base/model"}, {"base/model"});
    expect_refused(train_on("base/model/model.safetensors"),
                   {"base/model/model.safetensors:line 1: JSON fault at byte 1"});
    expect_refused(train({"--config", "world/tokenizer.model"}), {"world/tokenizer.model: JSON fault at byte"});
    expect_refused({"score", "--log", "world/tokenizer.model"}, {"world/tokenizer.model: JSON fault at byte"});
    expect_refused({"train", "--init", "world/tokenizer.model", "--tokenizer", "world/tokenizer.model", "--data",
                    "world/full.json", "--out", "refused"},
                   {"world/tokenizer.model: JSON fault at byte"});
    expect_refused(
        {"train", "--init", "init.json", "--tokenizer", "init.json", "--data", "world/full.json", "--out", "refused"},
        {"init.json: is no SentencePiece model"});
    expect_refused({"inspect", "world/tokenizer.model"}, {"world/tokenizer.model: byte 0"});
    expect_refused({"convert", "world/tokenizer.model", "refused"}, {"world/tokenizer.model"});
}

TEST(BadInput, DamagedJson) {
    write("fault.json", "{\"question\": \"q\", \"answer\": \"a\"}\n{\"question\": \"q\", \"answer\" \"a\"}\n");
    expect_refused(train_on("fault.json"), {"fault.json:line 2: JSON fault at byte 30", "expected ':'"});
    write("fault-config.json", R"({"lr": 1e-2, "epochs" 3})");
    expect_refused(train({"--config", "fault-config.json"}), {"fault-config.json: JSON fault at byte 23"});
    write("list.json", "[1, 2]");
    expect_refused(train({"--config", "list.json"}), {"list.json: must hold a JSON object"});
    write("unknown.json", R"({"learning_rate": 1e-2})");
    expect_refused(train({"--config", "unknown.json"}),
                   {"unknown.json: \"learning_rate\" is no option of uipe train", "uipe train --help"});
    write("nested.json", R"({"schedule": {"kind": "linear"}})");
    expect_refused(train({"--config", "nested.json"}), {"nested.json: \"schedule\" must be"});
    write("mistyped.json", R"({"epochs": "many"})");
    expect_refused(train({"--config", "mistyped.json"}), {"--epochs", "many"});
    write("deep.json", std::string(100000, '['));
    expect_refused(train_on("deep.json"), {"deep.json: JSON nested deeper than 512 at byte 512"});
}

TEST(BadInput, RowsThatLackWhatIsNeeded) {
    write("no-answer.json", "{\"question\": \"q\", \"answer\": \"a\"}\n{\"question\": \"q\"}\n");
    expect_refused(train_on("no-answer.json"),
                   {"no-answer.json:line 2: has no \"answer\"", "{\"question\",\"answer\"}"});
    expect_refused({"logprobs", "--model", "base/model", "--qa", "no-answer.json"}, {"no-answer.json:line 2"});
    write("empty.json", "");
    write("blank.json", "\n  \n");
    expect_refused(train_on("empty.json"), {"empty.json: holds no rows"});
    expect_refused(unlearn("ga", {"--forget", "empty.json"}), {"empty.json: holds no rows"});
    expect_refused(unlearn("ga", {"--forget", "blank.json"}), {"blank.json: holds no rows"});
    expect_refused(unlearn("grad_diff", {"--forget", "world/forget10.json", "--retain", "empty.json"}),
                   {"empty.json: holds no rows"});

    fs::copy(playground() / "world", playground() / "four");
    std::string lines;
    for_each_row(playground() / "world/forget10_perturbed.json", [&](Json row, const std::string&) {
        if (!lines.empty()) row["perturbed_answer"].erase(4);
        lines += row.dump() + "\n";
    });
    write("four/forget10_perturbed.json", lines);
    expect_refused({"eval", "--model", "base/model", "--tofu", "four", "--out", "refused"},
                   {"four/forget10_perturbed.json:line 2", "4 perturbed answers, 5 are needed"});
    write("four/forget10_perturbed.json", "");
    expect_refused({"eval", "--model", "base/model", "--tofu", "four", "--out", "refused"},
                   {"four/forget10_perturbed.json"});
}

/// A safetensors file of this header and data.
std::string safetensors(const std::string& header, std::size_t data, std::uint64_t length) {
    std::string bytes(8, '\0');
    std::memcpy(bytes.data(), &length, 8);
    return bytes + header + std::string(data, '\0');
}

TEST(BadInput, WeightsThatLie) {
    static_assert(std::endian::native == std::endian::little);
    const auto expect_lie = [](const std::string& bytes, const Words& parts) {
        const std::string name = "liar";
        write_model(name, [&](const fs::path& folder) { write_file(folder / "model.safetensors", bytes); });
        expect_refused({"logprobs", "--model", name, "--qa", "world/full.json"}, parts);
        expect_refused({"inspect", name}, parts);
        fs::remove_all(playground() / name);
    };
    const std::string file = "liar/model.safetensors";
    const std::string beyond = R"({"model.norm.weight":{"dtype":"F32","shape":[16],"data_offsets":[0,64]}})";
    expect_lie(safetensors(beyond, 32, beyond.size()), {file, "model.norm.weight"});
    const std::string wrong = R"({"model.norm.weight":{"dtype":"F32","shape":[16],"data_offsets":[0,60]}})";
    expect_lie(safetensors(wrong, 64, wrong.size()), {file, "model.norm.weight"});
    const std::string backwards = R"({"model.norm.weight":{"dtype":"F32","shape":[16],"data_offsets":[64,0]}})";
    expect_lie(safetensors(backwards, 64, backwards.size()), {file, "model.norm.weight"});
    const std::string a = R"("a":{"dtype":"F32","shape":[16],"data_offsets":[0,64]})";
    const std::string b = R"("b":{"dtype":"F32","shape":[16],"data_offsets":[32,96]})";
    const std::string overlap = "{" + a + "," + b + "}";
    expect_lie(safetensors(overlap, 96, overlap.size()), {file, "b"});
    expect_lie(safetensors("{}", 64, 100'000'000'000), {file, "byte 0", "100000000000"});
    expect_lie("", {file});
    expect_lie(safetensors(beyond, 64, beyond.size()), {"liar: tensor lm_head.weight", "is missing"});
}

TEST(BadInput, WeightsThatAreNotFinite) {
    write_model("broken", [](const fs::path& folder) {
        std::string bytes = read_file(folder / "model.safetensors");
        const float nan = std::numeric_limits<float>::quiet_NaN();
        std::memcpy(bytes.data() + bytes.size() - sizeof nan, &nan, sizeof nan);  // the last of the last tensor
        write_file(folder / "model.safetensors", bytes);
    });
    const Words parts{"broken", "model.norm.weight", "element 15"};
    expect_refused({"train", "--model", "broken", "--data", "world/full.json", "--out", "refused"}, parts);
    expect_refused({"logprobs", "--model", "broken", "--qa", "world/full.json"}, parts);
    expect_refused({"extrapolate", "--base", "base/model", "--unlearned", "broken", "--out", "refused"}, parts);
    expect_refused({"extrapolate", "--base", "broken", "--unlearned", "base/model", "--out", "refused"}, parts);
    expect_refused({"convert", "broken", "refused"}, parts);
}

TEST(BadInput, ATokenizerThatIsNotTheModels) {
    llama::train_tokenizer({"Who wrote it? The answer is not known to anybody here."}, 290,
                           playground() / "other.model");
    const auto expect_other = [](int rows, const std::string& tokenizer, const Words& parts) {
        Json config = read_json(playground() / "init.json");
        config["vocab_size"] = rows;
        write("other.json", config.dump());
        expect_refused({"train", "--init", "other.json", "--tokenizer", tokenizer, "--data", "world/full.json", "--out",
                        "refused"},
                       parts);
    };
    expect_other(300, "world/tokenizer.model", {"300", "512"});  // more pieces than rows
    expect_other(600, "other.model", {"600", "290"});            // more rows than any padding explains
    fs::copy(playground() / "base/model", playground() / "mixed");
    fs::copy_file(playground() / "other.model", playground() / "mixed/tokenizer.model",
                  fs::copy_options::overwrite_existing);
    Json config = read_json(playground() / "mixed/config.json");
    config["eos_token_id"] = 3;
    write("mixed/config.json", config.dump());
    expect_refused({"generate", "--model", "mixed", "--prompt", "a"}, {"EOS", "3"});
}

TEST(BadInput, ARetainLogOfOtherRows) {
    fs::copy(playground() / "world", playground() / "shorter");
    std::string rows = read_file(playground() / "world/forget10_perturbed.json");
    rows.resize(rows.find_last_of('\n', rows.size() - 2) + 1);  // without the last of its four
    write("shorter/forget10_perturbed.json", rows);
    Words more = evaluation();
    *std::find(more.begin(), more.end(), "world") = "shorter";
    const Words against = Words{"--retain-log", "retain"} + more;
    expect_refused(Words{"eval", "--model", "base/model", "--out", "refused"} + against, {"retain", "4 rows", "has 3"});
    expect_refused(unlearn("ga", against), {"retain", "4 rows", "has 3"});
    must(Words{"eval", "--model", "base/model", "--out", "three"} + more);
    expect_refused({"score", "--log", "three", "--retain-log", "retain"}, {"3", "4"});
}

TEST(BadInput, ValuesOutOfRange) {
    expect_refused(train({"--lr", "1e-5x"}), {"--lr", "1e-5x", "--help"});
    expect_refused(train({"--lr", "nan"}), {"--lr", "nan"});
    expect_refused(train({"--lr", "inf"}), {"--lr", "inf"});
    expect_refused(train({"--lr", "-1e-5"}), {"--lr", "-1e-05"});
    expect_refused(train({"--lr", "1e-5", "--lr", "1e-4"}), {"--lr", "1 required but received 2"});
    expect_refused(train({"--epochs", "-1"}), {"--epochs must be between 1", "not -1"});
    expect_refused(train({"--epochs", "0"}), {"--epochs must be between 1"});
    for (const char* huge : {"2000000000", "9223372036854775807", "99999999999999999999"}) {
        expect_refused(train({"--epochs", huge}), {"--epochs"});
        expect_refused(train({"--batch-size", huge, "--epochs", "1"}), {"--batch-size"});
        expect_refused(train({"--micro-batch", huge}), {"--micro-batch"});
    }
    expect_refused(train({"--batch-size", "0"}), {"--batch-size"});
    expect_refused(train({"--max-length", "1"}), {"--max-length"});
    expect_refused(train({"--adam-beta2", "1"}), {"--adam-beta2"});
    expect_refused(train({"--weight-decay", "nan"}), {"--weight-decay"});
    expect_refused(train({"--threads", "-1"}), {"--threads"});
    expect_refused(train({"--seed", "seven"}), {"--seed", "seven"});
    expect_refused(train({"--seed", "-1"}), {"--seed", "-1"});
    expect_refused(train({"--seed", "18446744073709551616"}), {"--seed", "18446744073709551616"});
    expect_refused(train({"--seed", "010"}), {"--seed", "'010' is no whole number"});
    expect_refused(train({"--batch-size", ""}), {"--batch-size", "'' is no whole number"});
    expect_refused(train({"--lr", ""}), {"--lr", "'' is no number"});
    expect_refused(unlearn("npo", {"--forget", "world/forget10.json", "--beta", "0"}), {"--beta"});
    expect_refused(unlearn("ga", {"--forget", "world/forget10.json", "--forget-weight", "nan"}), {"--forget-weight"});
    expect_refused(unlearn("ga", Words{"--retain-log", "retain"} + evaluation() + Words{"--eval-rows", "-1"}),
                   {"--eval-rows"});
    expect_refused({"generate", "--model", "base/model", "--prompt", "a", "--temperature", "nan"}, {"--temperature"});
    expect_refused({"generate", "--model", "base/model", "--prompt", "a", "--top-p", "0"}, {"--top-p"});
    expect_refused({"world", "--authors", "3", "--out", "refused"}, {"authors", "10"});
}

TEST(BadInput, UnknownNamesListTheKnown) {
    expect_refused({"frobnicate"}, {"unknown command 'frobnicate'", "train", "unlearn", "extrapolate", "eval"});
    expect_refused({}, {"give a command", "demo"});
    expect_refused(train({"--frobnicate", "1"}), {"--frobnicate", "--help"});
    expect_refused(unlearn("frobnicate", {"--forget", "world/forget10.json"}),
                   {"unknown method 'frobnicate'", "ga, grad_diff, kl_min, npo, npo_rt"});
    expect_refused(train({"--schedule", "square"}), {"'square'", "constant, linear, cosine"});
    expect_refused(train({"--recompute", "some"}), {"--recompute 'some'", "none, norm, mlp, block"});
    expect_refused(train({"--template", "chatty"}), {"\"chatty\"", "llama2-chat, qa, plain"});
    expect_refused(train({"--dtype", "f16"}), {"--dtype 'f16'", "f32, bf16"});
    expect_refused(train({"--save-dtype", "f16"}), {"--save-dtype 'f16'", "f32, bf16"});
    expect_refused(train({"--moments", "f16"}), {"--moments 'f16'", "f32, bf16"});
    expect_refused(train({"--offload", "all"}), {"--offload 'all'", "none, optimizer"});
    expect_refused(train({"--offload", "optimizer"}), {"--offload optimizer is for --device cuda"});
    expect_refused(train({"--device", "abacus"}), {"--device abacus", "cpu, cuda"});
    expect_refused({"eval", "--model", "base/model", "--tofu", "world", "--protocol", "third", "--out", "refused"},
                   {"'third'", "tofu, open-unlearning"});
    expect_refused({"eval", "--model", "base/model", "--tofu", "world", "--split", "all", "--out", "refused"},
                   {"--split all", "forget10"});
    expect_refused(unlearn("ga", {"--tofu", "world", "--split", "forget77"}), {"world/forget77"});
    expect_refused({"score", "--log", "retain", "--truth-ratio", "cubic"}, {"'cubic'", "geometric"});
}

TEST(BadInput, ADeviceThatCannotBeUsedIsSaidInOneLine) {
    ::setenv("CUDA_VISIBLE_DEVICES", "", 1);  // as on a machine without a GPU; programs run here inherit it
    try {
        (void)tensor::device_named("cuda");
        GTEST_SKIP() << "the emulator can always be used";
    } catch (const InputError& e) {
        for (const Words& command : {train({}), Words{"generate", "--model", "base/model"}})
            expect_refused(command + Words{"--device", "cuda"}, {"--device cuda", e.what()});
    }
    ::unsetenv("CUDA_VISIBLE_DEVICES");
}

TEST(BadInput, MissingOptionsSayWhich) {
    expect_refused({"train", "--model", "base/model", "--out", "refused"}, {"--data", "--help"});
    expect_refused({"train", "--model", "base/model", "--data", "world/full.json"}, {"--out"});
    expect_refused({"train", "--data", "world/full.json", "--out", "refused"}, {"--model DIR or --init"});
    expect_refused({"train", "--init", "init.json", "--data", "world/full.json", "--out", "refused"}, {"--tokenizer"});
    expect_refused(unlearn("grad_diff", {"--forget", "world/forget10.json"}), {"GradDiff needs --retain"});
    expect_refused(unlearn("ga", {}), {"--forget FILE, or --tofu"});
    expect_refused({"eval", "--model", "base/model", "--out", "refused"}, {"--tofu"});
    expect_refused({"tokenize", "--text", "a"}, {"--tokenizer FILE or --model"});
    expect_refused({"extrapolate", "--unlearned", "base/model", "--out", "refused"}, {"--base"});
    expect_refused({"extrapolate", "--base", "base/model", "--unlearned", "base/model"}, {"--out"});
}

TEST(BadInput, AlphasThatAreNone) {
    const Words words{"extrapolate", "--base", "base/model", "--unlearned",
                      "base/model",  "--out",  "refused",    "--alpha"};
    for (const char* alpha : {"abc", "nan", "1x", "", "inf"}) expect_refused(words + Words{alpha}, {"--alpha"});
    expect_refused(words + Words{"1", "auto"}, {"--alpha auto"});
    expect_refused(words + Words{"auto"}, {"--alpha auto", "--tofu"});
    expect_refused(unlearn("ga", {"--forget", "world/forget10.json", "--alpha", "auto"}), {"--alpha auto", "--tofu"});
    expect_refused({"extrapolate", "--base", std::string(FIXTURES) + "/llama/grouped", "--unlearned", "base/model",
                    "--out", "refused"},
                   {"--base must be the model that was unlearned"});
}

TEST(BadInput, FoldersInUseAreLeftAlone) {
    const Bytes before = weights_of("base/model");
    const Words on_base = training() + Words{"--epochs", "3", "--out", "base"};
    expect_refused(on_base, {"base: exists already", "--overwrite"});
    expect_refused(training() + Words{"--out", "world"}, {"world: exists already"});
    write("rows.json", R"({"question": "q", "answer": "a"})");
    const Words elsewhere{"train", "--model", "base/model", "--data", "rows.json", "--overwrite", "--out"};
    expect_refused(elsewhere + Words{"world"}, {"world: holds no metrics.jsonl"});
    expect_refused(elsewhere + Words{"."}, {".: --overwrite would remove base/model"});
    expect_refused(training() + Words{"--out", "base/model", "--overwrite"}, {"base/model: holds no metrics.jsonl"});
    expect_refused({"train", "--model", "base/model", "--data", "world/full.json", "--out", "base", "--overwrite"},
                   {"--overwrite would remove base/model"});
    expect_refused(Words{"eval", "--model", "base/model", "--out", "base", "--overwrite"} + evaluation(),
                   {"base: holds no TOFU_EVAL.json"});
    expect_refused({"extrapolate", "--base", "base/model", "--unlearned", "base/model", "--out", "base", "--overwrite"},
                   {"base: holds no extrapolation.json"});
    expect_refused({"world", "--out", "base", "--overwrite"}, {"base: holds no world.json"});
    expect_refused({"convert", "base/model", "world"}, {"world: exists already"});
    EXPECT_EQ(weights_of("base/model"), before);
    EXPECT_EQ(metrics_of("base").size(), 15u);
}

TEST(BadInput, ResumingWithOtherSettingsSaysWhich) {
    const Words words = training() + Words{"--epochs", "2", "--out", "begun"};
    must(words + Words{"--stop-after", "2"});
    const Words resume{"--resume"};
    expect_refused(training() + Words{"--epochs", "3", "--out", "begun"} + resume,
                   {"begun: cannot resume with other settings", "epochs is 2 there and 3 here"});
    expect_refused(words + Words{"--seed", "7", "--resume"}, {"seed is 42 there and 7 here"});
    expect_refused(words + Words{"--moments", "bf16", "--resume"}, {"moments is \"f32\" there and \"bf16\" here"});
    expect_refused(words + Words{"--no-shuffle", "--resume"}, {"no_shuffle is false there and true here"});
    expect_refused(words + Words{"--replay", "world/full.json", "--resume"}, {"replay is [] there"});
    expect_refused(training() + Words{"--out", "refused", "--resume"}, {"refused: there is no run to resume"});
    write("begun/config.json", "[]");
    expect_refused(words + resume, {"begun", "config.json is no object"});
    EXPECT_EQ(metrics_of("begun").size(), 2u);
}

TEST(BadInput, HugeNumbersInAModelsConfig) {
    const Json good = read_json(playground() / "init.json");
    const auto expect_bad = [&](const char* key, const Json& value) {
        Json config = good;
        config[key] = value;
        write("huge.json", config.dump());
        expect_refused({"train", "--init", "huge.json", "--tokenizer", "world/tokenizer.model", "--data",
                        "world/full.json", "--out", "refused"},
                       {"huge.json", key});
    };
    expect_bad("hidden_size", 4611686018427387904);
    expect_bad("num_hidden_layers", 1000000000000);
    expect_bad("vocab_size", 18446744073709551615u);
    expect_bad("intermediate_size", 1e300);
    expect_bad("num_attention_heads", 0);
    expect_bad("num_key_value_heads", -1);
    expect_bad("rope_theta", "ten thousand");
    expect_bad("hidden_act", "relu");
}

}  // namespace
}  // namespace uipe::unlearn::testing
