// Text and numbers as HTML.
#pragma once

#include <optional>
#include <string>

namespace uipe::unlearn {

/// Text as HTML text or attribute value: & < > " ' escaped, control characters other than line breaks and tabs
/// replaced.
std::string escaped(const std::string& text);

/// `value` with `digits` decimals; an en dash where there is none.
std::string decimal(std::optional<double> value, int digits = 3);

/// A probability: three decimals, or 2.5×10⁻¹³ below 0.001; an en dash where there is none.
std::string p_value(std::optional<double> value);

/// A count with commas between the thousands.
std::string count(double value);

/// "47 s", "3 min 12 s", "2 h 5 min".
std::string duration(double seconds);

}  // namespace uipe::unlearn
