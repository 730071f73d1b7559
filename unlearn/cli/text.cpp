// uipe generate, uipe tokenize.
#include <chrono>
#include <cmath>
#include <cstdio>

#include "llama/generate.h"
#include "unlearn/cli/command.h"
#include "unlearn/session.h"

namespace uipe::unlearn {
namespace {

struct GenerateArguments {
    fs::path model;
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
    const LoadedModel model = load_model(a.model, common.type(), false);
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
    for (const std::int32_t id : ids) show(stream.push(id));
    how.on_token = [&](std::size_t, std::int32_t id) { show(stream.push(id)); };
    const auto start = std::chrono::steady_clock::now();
    const std::vector<std::vector<std::int32_t>> prompts{ids};
    const std::vector<std::int32_t> fresh = llama::generate(*model.model, prompts, how).front();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
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
    c->add_option("--model", a->model, "Model folder")->required();
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

void add_tokenize(CLI::App& app) {
    struct Arguments {
        fs::path tokenizer, model;
        std::string text;
    };
    const auto a = std::make_shared<Arguments>();
    const auto common = std::make_shared<Common>();
    CLI::App* c =
        add_command(app, "tokenize", "Show the ids and pieces of a text", common, [a, common](const CLI::App&) {
            require_input(a->tokenizer.empty() != a->model.empty(), "give either --tokenizer FILE or --model DIR");
            const auto tokenizer = llama::Tokenizer::load(a->tokenizer.empty() ? a->model : a->tokenizer);
            const std::vector<std::int32_t> ids = tokenizer.encode(a->text);
            const std::vector<std::string> pieces = tokenizer.pieces(ids);
            if (!common->json)
                for (std::size_t i = 0; i < ids.size(); ++i) std::printf("%6d  %s\n", ids[i], pieces[i].c_str());
            return Json{{"ids", ids}, {"pieces", pieces}};
        });
    c->add_option("--tokenizer", a->tokenizer, "tokenizer.model");
    c->add_option("--model", a->model, "Model folder");
    c->add_option("--text", a->text, "Text; no BOS or EOS is added")->required();
}

}  // namespace uipe::unlearn
