#include "unlearn/cli/lora_options.h"

#include <algorithm>
#include <sstream>

namespace uipe::unlearn {
namespace {

/// Of `--lora-targets`.
std::vector<std::string> targets_named(const std::string& text) {
    if (text == "all") return llama::lora_targets();
    std::vector<std::string> names;
    std::istringstream parts(text);
    for (std::string name; std::getline(parts, name, ',');) names.push_back(name);
    return names;
}

}  // namespace

llama::LoraConfig LoraArguments::finished() const {
    llama::LoraConfig out = lora;
    out.targets = targets_named(targets);
    if (out.rank == 0) {
        require_input(out.alpha == 0 && out.dropout == 0 && out.targets == llama::LoraConfig().targets,
                      "--lora-alpha, --lora-dropout and --lora-targets describe an adapter; give its --lora-rank too");
        return out;
    }
    if (out.alpha == 0) out.alpha = 2.0 * static_cast<double>(out.rank);
    llama::check_lora(out, "--lora-rank, --lora-alpha, --lora-dropout, --lora-targets");
    std::vector<std::string> ordered = llama::lora_targets();
    std::erase_if(ordered, [&](const std::string& name) {
        return std::find(out.targets.begin(), out.targets.end(), name) == out.targets.end();
    });
    out.targets = ordered;
    return out;
}

void add_lora_options(CLI::App& c, LoraArguments& a) {
    const std::string group = "LoRA";
    c.add_option("--lora-rank", a.lora.rank, "Train an adapter of this rank, and nothing else; 0: all weights")
        ->group(group);
    c.add_option("--lora-alpha", a.lora.alpha, "Its product counts alpha / rank times; 0: alpha is twice the rank")
        ->group(group);
    c.add_option("--lora-dropout", a.lora.dropout, "Share of its inputs that is dropped in training")->group(group);
    c.add_option("--lora-targets", a.targets,
                 "Matrices it stands beside, with commas between: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, "
                 "down_proj; or all")
        ->group(group);
}

}  // namespace uipe::unlearn
