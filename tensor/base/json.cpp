#include "tensor/base/json.h"

#include <algorithm>

#include "tensor/base/error.h"

namespace uipe {
namespace {

constexpr int max_depth = 512;

/// Refuses text nested deeper than the parser's stack should be asked to go.
void check_depth(std::string_view text, const std::string& where) {
    int depth = 0;
    bool in_string = false;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (in_string) {
            if (c == '\\') ++i;
            if (c == '"') in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            require_input(++depth <= max_depth, where, ": JSON nested deeper than ", max_depth, " at byte ", i);
        } else if (c == ']' || c == '}') {
            --depth;
        }
    }
}

/// The parser's sentence without its own prefix "[json.exception…] parse error at line 1, column 2: ".
std::string plain_reason(const std::string& what) {
    const auto at = what.find(": ");
    return at == std::string::npos ? what : what.substr(at + 2);
}

}  // namespace

Json parse_json(std::string_view text, const std::string& where) {
    check_depth(text, where);
    try {
        return Json::parse(text);
    } catch (const Json::parse_error& e) {
        throw InputError(cat(where, ": JSON fault at byte ", e.byte, ": ", plain_reason(e.what())));
    } catch (const Json::exception& e) {
        throw InputError(cat(where, ": JSON fault: ", plain_reason(e.what())));
    }
}

Json read_json(const fs::path& path) { return parse_json(read_file(path), path.string()); }

void write_json(const fs::path& path, const Json& json) {
    write_file(path, json.dump(4, ' ', false, Json::error_handler_t::replace) + "\n");
}

void for_each_row(const fs::path& path, const std::function<void(const Json&, const std::string&)>& row) {
    std::string text = read_file(path);
    if (text.starts_with("\xEF\xBB\xBF")) text.erase(0, 3);  // a byte order mark
    const auto first = text.find_first_not_of(" \t\r\n");
    if (first != std::string::npos && text[first] == '[') {
        const Json array = parse_json(text, path.string());
        for (std::size_t i = 0; i < array.size(); ++i) row(array[i], cat(path.string(), ":[", i, "]"));
        return;
    }
    std::size_t line = 1;
    for (std::size_t begin = 0; begin < text.size(); ++line) {
        const std::size_t end = std::min(text.find('\n', begin), text.size());
        const std::string_view view(text.data() + begin, end - begin);
        const std::string place = cat(path.string(), ":line ", line);
        if (view.find_first_not_of(" \t\r") != std::string_view::npos) row(parse_json(view, place), place);
        begin = end + 1;
    }
}

}  // namespace uipe
