// What both log formats share: JSON values that know their place, for messages. Include in .cpp files only.
#pragma once

#include <string>
#include <vector>

#include "eval/log.h"
#include "tensor/base/json.h"

namespace uipe::eval {

/// A value of a log and where it stands, `file:/key/key`. All access is checked: InputError names the place.
class LogValue {
public:
    LogValue(const Json& json, std::string place) : json_(&json), place_(std::move(place)) {}

    bool has(const std::string& key) const { return json_->is_object() && json_->contains(key); }
    LogValue operator[](const std::string& key) const;

    double number() const;
    std::int64_t count() const;  // a whole number of at least 1
    std::string text() const;
    std::vector<LogValue> list() const;
    std::vector<double> numbers() const;

    /// The values of {"0": …, "1": …} in the order of the numbers, which must be 0 to n-1, or of an array.
    std::vector<LogValue> rows() const;

    /// The same, and there must be `n` of them.
    std::vector<LogValue> rows(std::size_t n) const;

    const Json& json() const { return *json_; }
    const std::string& place() const { return place_; }

private:
    [[noreturn]] void refuse(const char* needed) const;
    LogValue child(const Json& json, const std::string& key) const { return {json, place_ + "/" + key}; }

    const Json* json_;
    std::string place_;
};

/// {"0": value(0), "1": value(1), …}
template <class Rows, class Value>
Json by_index(const Rows& rows, const Value& value) {
    Json out = Json::object();
    std::size_t i = 0;
    // The keys are new by construction: push_back past the map's linear search for an equal key.
    for (const auto& row : rows) out.get_ref<Json::object_t&>().push_back({std::to_string(i++), value(row)});
    return out;
}

EvalLog read_tofu_log(const LogValue& log);
EvalLog read_open_unlearning_log(const LogValue& log);

/// Whether a parsed file is a log of the tofu format.
bool is_tofu_log(const Json& json);

}  // namespace uipe::eval
