#include "unlearn/cli/objective_options.h"

#include <algorithm>
#include <array>

namespace uipe::unlearn {
namespace {

struct Number {
    const char* flag;
    double ObjectiveOptions::*value;
    double least;
    const char* what;
};
constexpr std::array numbers{
    Number{"--beta", &ObjectiveOptions::beta, 0, "The method's beta: of NPO, SimNPO, DPO an inverse temperature"},
    Number{"--beta2", &ObjectiveOptions::beta2, 0, "SatImp's second exponent"},
    Number{"--forget-weight", &ObjectiveOptions::forget_weight, 0, "Factor of the forget term"},
    Number{"--retain-weight", &ObjectiveOptions::retain_weight, 0, "Factor of the retain term"},
    Number{"--rmu-coeff", &ObjectiveOptions::rmu_coeff, 0, "Norm of the vector that RMU moves activations to"},
};

std::string key_of(std::string flag) {
    flag.erase(0, 2);
    std::replace(flag.begin(), flag.end(), '-', '_');
    return flag;
}

/// What a method's defaults change of the common ones, as flags.
std::string own_defaults(const Objective& o) {
    std::string text;
    for (const Number& n : numbers)
        if (o.defaults.*n.value != ObjectiveOptions{}.*n.value)
            text += cat(text.empty() ? " (" : " ", n.flag, " ", o.defaults.*n.value);
    return text.empty() ? text : text + ")";
}

}  // namespace

ObjectiveOptions ObjectiveArguments::finished(const CLI::App& command, const Objective& objective) const {
    constexpr double most = 1e9;
    ObjectiveOptions out = objective.defaults;
    for (const Number& n : numbers) {
        if (command.get_option(n.flag)->count() == 0) continue;
        const double value = given.*n.value;
        require_input(value >= n.least && value <= most, n.flag, " must be between ", n.least, " and ", most, ", not ",
                      value);
        out.*n.value = value;
    }
    require_input(!objective.divides_by_beta || out.beta >= 1e-12, "--beta must be at least 1e-12 for ",
                  objective.title, ", not ", out.beta);
    require_input(given.rmu_layer >= 0, "--rmu-layer must be 1 or more, not ", given.rmu_layer);
    out.rmu_layer = given.rmu_layer;
    out.kl_on_answers = given.kl_on_answers;
    return out;
}

void add_objective_options(CLI::App& command, ObjectiveArguments& arguments) {
    ObjectiveOptions& o = arguments.given;
    for (const Number& n : numbers) command.add_option(n.flag, o.*n.value, n.what);
    command.add_option("--rmu-layer", o.rmu_layer,
                       "The layer whose output RMU moves, from 1; 0: 8, or the last of a model with fewer");
    command.add_flag("--kl-on-answers", o.kl_on_answers, "KL Min: average over answers, not over prompts and answers");
}

Json json_of(const ObjectiveOptions& options) {
    Json out;
    for (const Number& n : numbers) out[key_of(n.flag)] = options.*n.value;
    return out;
}

std::string methods_text() {
    std::string text =
        "Methods; the f term is times --forget-weight, the r term times --retain-weight; in brackets other defaults:\n";
    for (const Objective& o : objectives())
        if (o.unlearns)
            text += cat("  ", o.name, std::string(12 - o.name.size(), ' '), o.title, ": minimises ", o.formula,
                        own_defaults(o), "\n");
    return text;
}

std::string method_names() {
    std::string names;
    for (const Objective& o : objectives())
        if (o.unlearns) names += (names.empty() ? "" : ", ") + o.name;
    return names;
}

}  // namespace uipe::unlearn
