// JSON in and out with messages a user can act on. Include in .cpp files only (the library is heavy to compile).
#pragma once

#include <functional>
#include <nlohmann/json.hpp>

#include "tensor/base/file.h"

namespace uipe {

using Json = nlohmann::ordered_json;

/// Parses text; InputError is `where: JSON fault at byte N: …`. Depth is bounded (512) before the parser sees it.
Json parse_json(std::string_view text, const std::string& where);

/// The parsed content of a file; InputError names the file and the byte of a fault.
Json read_json(const fs::path& path);

/// Writes indented JSON (4 blanks, non-ASCII kept, invalid UTF-8 replaced), atomically.
void write_json(const fs::path& path, const Json& json);

/// Calls `row(json, place)` for each element of a JSON array or each line of a JSONL file, whichever the file holds.
/// `place` is `path:line N` or `path:[i]`; blank lines are skipped.
void for_each_row(const fs::path& path, const std::function<void(const Json& row, const std::string& place)>& row);

}  // namespace uipe
