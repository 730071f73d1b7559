// uipe generate, uipe tokenize.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <sstream>

#include "llama/generate.h"
#include "llama/tokenizer_trainer.h"
#include "unlearn/cli/command.h"
#include "unlearn/session.h"

namespace uipe::unlearn {
namespace {

struct GenerateArguments {
    fs::path model, base;
    std::string prompt, question;
    std::string form = "llama2-chat";
    llama::GenerateOptions how;
    bool ignore_eos = false;
};

Json generate(const GenerateArguments& a, const Common& common) {
    const llama::GenerateOptions& given = a.how;
    require_input(a.prompt.empty() || a.question.empty(), "give --prompt or --question, not both");
    require_input(given.max_new_tokens >= 0, "--max-new-tokens must not be negative");
    require_input(std::isfinite(given.temperature) && given.temperature >= 0,
                  "--temperature must be 0 (greedy) or more");
    require_input(given.top_p > 0 && given.top_p <= 1, "--top-p must be above 0 and at most 1");
    require_input(given.top_k >= 0, "--top-k must not be negative");
    const LoadedModel model = load_model(a.model, common.type(), common.where(), Weights::shared, a.base);
    const std::string text = a.question.empty() ? a.prompt : llama::prompt_template(a.form).prompt(a.question);
    std::vector<std::int32_t> ids = model.tokenizer.encode(text);
    ids.insert(ids.begin(), model.tokenizer.bos_id());
    llama::GenerateOptions how = given;
    how.seed = common.seed;
    how.stop_at_eos = !a.ignore_eos;
    llama::TextStream stream(model.tokenizer);
    const auto show = [&](const std::string& piece) {
        if (common.json) return;
        std::fputs(piece.c_str(), stdout);
        std::fflush(stdout);
    };
    bool begun = false;
    const auto begin = [&] {  // the prompt goes out with the first token, once its length has been found to fit
        if (!begun) show(stream.push(ids));
        begun = true;
    };
    how.on_token = [&](std::size_t, std::int32_t id) {
        begin();
        show(stream.push(id));
    };
    const auto start = std::chrono::steady_clock::now();
    const std::vector<std::vector<std::int32_t>> prompts{ids};
    const std::vector<std::int32_t> fresh = llama::generate(*model.model, prompts, how).front();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    begin();
    show(stream.finish() + "\n");
    std::vector<std::int32_t> all = ids;
    all.insert(all.end(), fresh.begin(), fresh.end());
    return Json{{"text", model.tokenizer.decode(all)},
                {"prompt_tokens", ids.size()},
                {"new_tokens", fresh.size()},
                {"tok_per_s", static_cast<double>(fresh.size()) / seconds}};
}

}  // namespace

void add_generate(CLI::App& app) {
    const auto a = std::make_shared<GenerateArguments>();
    const auto common = std::make_shared<Common>();
    CLI::App* c = add_command(app, "generate", "Continue a prompt, or answer a question", common,
                              [a, common](const CLI::App&) { return generate(*a, *common); });
    c->add_option("--model", a->model, "Model or adapter folder")->required();
    add_base_option(*c, a->base);
    c->add_option("--prompt", a->prompt, "Text to continue, as it is");
    c->add_option("--question", a->question, "Question to put into the --template");
    c->add_option("--template", a->form, "Prompt of a question: llama2-chat, qa, plain");
    c->add_option("--max-new-tokens", a->how.max_new_tokens, "New tokens at most");
    c->add_option("--temperature", a->how.temperature, "0: the likeliest token; above: sampled");
    c->add_option("--top-p", a->how.top_p, "Sample from the likeliest tokens that reach this probability");
    c->add_option("--top-k", a->how.top_k, "Sample from at most so many tokens; 0: all");
    c->add_flag("--ignore-eos", a->ignore_eos, "Go on after the end of the text");
    c->footer("With --json: {text, prompt_tokens, new_tokens, tok_per_s}.");
}

namespace {

struct TokenizeArguments {
    fs::path tokenizer, model, base, out;
    std::string text;
    std::vector<fs::path> train;
    int vocab_size = 4096;
};

/// Every string of the rows, or every line of a .txt file.
std::vector<std::string> texts_of(const fs::path& file) {
    std::vector<std::string> out;
    if (file.extension() == ".txt") {
        std::istringstream lines(read_file(file));
        for (std::string line; std::getline(lines, line);) out.push_back(line);
        return out;
    }
    for_each_row(file, [&](const Json& row, const std::string& place) {
        require_input(row.is_object(), place, ": is no object of texts");
        for (const auto& [key, value] : row.items())
            if (value.is_string()) out.push_back(value.get<std::string>());
    });
    return out;
}

Json train_tokenizer(const TokenizeArguments& a) {
    require_input(!a.out.empty(), "--train needs --out FILE for the new tokenizer");
    std::vector<std::string> lines;
    for (const fs::path& file : a.train)
        for (std::string& line : texts_of(file)) lines.push_back(std::move(line));
    require_input(!lines.empty(), a.train.front().string(), ": holds no text");
    lines.emplace_back("[INST] [/INST]");
    llama::train_tokenizer(lines, a.vocab_size, a.out);
    return Json{{"out", a.out.string()}, {"vocab_size", llama::Tokenizer::load(a.out).vocab_size()}};
}

Json tokenize(const TokenizeArguments& a, bool json) {
    if (!a.train.empty()) return train_tokenizer(a);
    require_input(a.tokenizer.empty() != a.model.empty(), "give either --tokenizer FILE or --model DIR");
    const auto tokenizer = llama::Tokenizer::load(a.tokenizer.empty() ? base_of(a.model, a.base) : a.tokenizer);
    const std::vector<std::int32_t> ids = tokenizer.encode(a.text);
    const std::vector<std::string> pieces = tokenizer.pieces(ids);
    if (!json)
        for (std::size_t i = 0; i < ids.size(); ++i) std::printf("%6d  %s\n", ids[i], pieces[i].c_str());
    return Json{{"ids", ids}, {"pieces", pieces}};
}

}  // namespace

void add_tokenize(CLI::App& app) {
    const auto a = std::make_shared<TokenizeArguments>();
    const auto common = std::make_shared<Common>();
    CLI::App* c =
        add_command(app, "tokenize", "Show the ids and pieces of a text, or train a tokenizer", common,
                    [a, common](const CLI::App& self) {
                        require_input(!a->train.empty() || self.get_option("--text")->count() > 0, "give --text TEXT");
                        return tokenize(*a, common->json);
                    });
    c->add_option("--tokenizer", a->tokenizer, "tokenizer.model");
    c->add_option("--model", a->model, "Model or adapter folder");
    add_base_option(*c, a->base);
    c->add_option("--text", a->text, "Text; no BOS or EOS is added");
    const std::string group = "Training";
    c->add_option("--train", a->train, "Files whose texts a new SentencePiece BPE tokenizer is trained on")
        ->group(group);
    c->add_option("--vocab-size", a->vocab_size, "Pieces of the new tokenizer")->group(group);
    c->add_option("--out", a->out, "File of the new tokenizer")->group(group);
}

}  // namespace uipe::unlearn
