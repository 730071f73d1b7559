// Options of the objectives, for uipe unlearn and uipe plan. A method may have defaults of its own.
#pragma once

#include <CLI/CLI.hpp>

#include "tensor/base/json.h"
#include "unlearn/objective.h"

namespace uipe::unlearn {

struct ObjectiveArguments {
    ObjectiveOptions given;  // with the common defaults where an option is not given

    /// The options as given, else as the method has them. InputError for a number that is out of range.
    ObjectiveOptions finished(const CLI::App& command, const Objective& objective) const;
};

void add_objective_options(CLI::App& command, ObjectiveArguments& arguments);
/// What they are, as config_of() names them.
Json json_of(const ObjectiveOptions& options);
/// The methods and their formulas, a line each, with the defaults of their own: "(--beta 4.5 --forget-weight 0.125)".
std::string methods_text();
/// The names of the methods: "ga, grad_diff, …".
std::string method_names();

}  // namespace uipe::unlearn
