#include "unlearn/report/html.h"

#include <cmath>
#include <iomanip>
#include <sstream>

#include "tensor/base/error.h"

namespace uipe::unlearn {

std::string escaped(const std::string& text) {
    std::string out;
    out.reserve(text.size());
    for (const char c : text) {
        switch (c) {
            case '&':
                out += "&amp;";
                break;
            case '<':
                out += "&lt;";
                break;
            case '>':
                out += "&gt;";
                break;
            case '"':
                out += "&quot;";
                break;
            case '\'':
                out += "&#39;";
                break;
            default: {
                const bool control = (c >= 0 && c < ' ' && c != '\n' && c != '\t') || c == 0x7f;
                out += control ? std::string("\uFFFD") : std::string(1, c);
            }
        }
    }
    return out;
}

std::string decimal(std::optional<double> value, int digits) {
    if (!value || !std::isfinite(*value)) return "–";
    std::ostringstream out;
    out << std::fixed << std::setprecision(digits) << *value;
    return out.str();
}

std::string p_value(std::optional<double> value) {
    if (!value || !std::isfinite(*value)) return "–";
    if (*value >= 0.001 || *value <= 0) return decimal(value);
    std::ostringstream out;
    out << std::scientific << std::setprecision(1) << *value;
    const std::string text = out.str();  // "2.5e-13"
    const std::size_t e = text.find('e');
    return cat(text.substr(0, e), "×10<sup>−", -std::stoi(text.substr(e + 1)), "</sup>");
}

std::string count(double value) {
    std::string digits = decimal(std::round(value), 0);
    for (std::size_t at = digits.size(); at > 3;) digits.insert(at -= 3, ",");
    return digits;
}

std::string duration(double seconds) {
    const long whole = std::lround(seconds);
    if (whole < 60) return cat(whole, " s");
    if (whole < 3600) return cat(whole / 60, " min ", whole % 60, " s");
    return cat(whole / 3600, " h ", whole % 3600 / 60, " min");
}

}  // namespace uipe::unlearn
