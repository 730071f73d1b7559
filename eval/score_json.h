// Scores as JSON. Include in .cpp files only.
#pragma once

#include "eval/score.h"
#include "tensor/base/json.h"

namespace uipe::eval {

/// {"metric": value, …}, sorted by name.
inline Json to_json(const Scores& scores) {
    Json out = Json::object();
    for (const auto& [name, value] : scores) out[name] = value;
    return out;
}

}  // namespace uipe::eval
