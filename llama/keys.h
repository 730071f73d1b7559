// The keys of a JSON file that another program wrote. Include in .cpp files only.
#pragma once

#include <limits>
#include <string>

#include "tensor/base/error.h"
#include "tensor/base/json.h"

namespace uipe::llama {

/// A JSON value in a message, cut to a readable length.
inline std::string shown(const Json& value) {
    std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
    if (text.size() > 60) text = text.substr(0, 60) + "…";
    return text;
}

/// The keys of one object, each read with its type checked; InputError begins with `where`.
class Keys {
public:
    Keys(const Json& json, std::string where) : json_(json), where_(std::move(where)) {}

    /// The value of a key; null and a missing key are the same.
    const Json* find(const char* key) const {
        const auto it = json_.find(key);
        return it == json_.end() || it->is_null() ? nullptr : &*it;
    }
    std::int64_t integer(const char* key, std::int64_t otherwise) const {
        const Json* value = find(key);
        return value == nullptr ? otherwise : to_integer(key, *value);
    }
    std::int64_t integer(const char* key) const {
        const Json* value = find(key);
        require_input(value != nullptr, where_, ": ", key, " is missing; a positive integer is needed");
        return to_integer(key, *value);
    }
    double number(const char* key, double otherwise) const {
        const Json* value = find(key);
        if (value == nullptr) return otherwise;
        require_input(value->is_number(), where_, ": ", key, " is ", shown(*value), "; a number is needed");
        return value->get<double>();
    }
    bool boolean(const char* key) const {
        const Json* value = find(key);
        if (value == nullptr) return false;
        require_input(value->is_boolean(), where_, ": ", key, " is ", shown(*value), "; true or false is needed");
        return value->get<bool>();
    }
    std::string text(const char* key, const std::string& otherwise) const {
        const Json* value = find(key);
        if (value == nullptr) return otherwise;
        require_input(value->is_string(), where_, ": ", key, " is ", shown(*value), "; a string is needed");
        return value->get<std::string>();
    }
    std::int64_t to_integer(const char* key, const Json& value) const {
        const bool fits = value.is_number_unsigned()
                              ? value.get<std::uint64_t>() <= std::numeric_limits<std::int64_t>::max()
                              : value.is_number_integer();
        require_input(fits, where_, ": ", key, " is ", shown(value), "; an integer is needed");
        return value.get<std::int64_t>();
    }
    void must_be(const char* key, const std::string& only) const {
        const std::string value = text(key, only);
        require_input(value == only, where_, ": ", key, " is \"", value, "\"; only \"", only, "\" is supported");
    }
    const std::string& where() const { return where_; }

private:
    const Json& json_;
    std::string where_;
};

}  // namespace uipe::llama
