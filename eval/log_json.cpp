#include "eval/log_json.h"

#include <charconv>
#include <cmath>

#include "tensor/base/error.h"

namespace uipe::eval {

void LogValue::refuse(const char* needed) const {
    throw InputError(cat(place_, " is of type ", json_->type_name(), ", ", needed, " is needed"));
}

LogValue LogValue::operator[](const std::string& key) const {
    if (!json_->is_object()) refuse("an object");
    const auto at = json_->find(key);
    require_input(at != json_->end(), place_, " has no `", key, "`; the log is incomplete, evaluate again");
    return child(*at, key);
}

double LogValue::number() const {
    if (!json_->is_number()) refuse("a finite number");
    const double value = json_->get<double>();
    require_input(std::isfinite(value), place_, " is not finite; the log is damaged, evaluate again");
    return value;
}

std::int64_t LogValue::count() const {
    if (!json_->is_number_integer() || *json_ < 1 || *json_ > std::int64_t{1} << 31) refuse("a count from 1 to 2^31");
    return json_->get<std::int64_t>();
}

std::string LogValue::text() const {
    if (!json_->is_string()) refuse("a string");
    return json_->get<std::string>();
}

std::vector<LogValue> LogValue::list() const {
    if (!json_->is_array()) refuse("an array");
    std::vector<LogValue> values;
    for (const Json& value : *json_) values.push_back(child(value, std::to_string(values.size())));
    return values;
}

std::vector<double> LogValue::numbers() const {
    std::vector<double> values;
    for (const LogValue& value : list()) values.push_back(value.number());
    return values;
}

std::vector<LogValue> LogValue::rows() const {
    if (json_->is_array()) return list();
    if (!json_->is_object()) refuse("an object or array of rows");
    std::vector<const Json*> slots(json_->size(), nullptr);
    for (const auto& [key, value] : json_->items()) {
        std::size_t i = 0;
        const auto [end, fault] = std::from_chars(key.data(), key.data() + key.size(), i);
        const bool fits = fault == std::errc() && end == key.data() + key.size() && i < slots.size() && !slots[i];
        require_input(fits, place_, " has the key `", key, "`; rows are numbered 0 to ", slots.size() - 1,
                      " without gaps");
        slots[i] = &value;
    }
    std::vector<LogValue> values;
    for (const Json* slot : slots) values.push_back(child(*slot, std::to_string(values.size())));
    return values;
}

std::vector<LogValue> LogValue::rows(std::size_t n) const {
    auto values = rows();
    require_input(values.size() == n, place_, " has ", values.size(), " rows, its set has ", n,
                  "; the log is incomplete, evaluate again");
    return values;
}

}  // namespace uipe::eval
