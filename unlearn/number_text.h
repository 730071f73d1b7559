// Numbers as options and names have them.
#pragma once

#include <charconv>
#include <string>

namespace uipe::unlearn {

/// 0.25, 1e-05: the shortest text that reads back as the number.
inline std::string number_text(double x) {
    char text[64];
    return {text, std::to_chars(text, text + sizeof text, x).ptr};
}

}  // namespace uipe::unlearn
