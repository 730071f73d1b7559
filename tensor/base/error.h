// The two kinds of failure: the user's input (exit 2) and everything else (exit 1).
// A message is one line: what is wrong, where (file, byte, row, flag), and what would mend it.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace uipe {

/// A failure of the program or the machine. The command line prints `what()` and exits 1.
struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// A fault in what the user gave. The command line prints `what()` and exits 2.
struct InputError : Error {
    using Error::Error;
};

/// Joins its arguments into one string: `cat("row ", 3, " of ", path)`.
template <class... Args>
std::string cat(const Args&... args) {
    std::ostringstream out;
    (out << ... << args);
    return out.str();
}

/// Throws Error unless `ok`; for conditions that only a bug in this program can break.
template <class... Args>
void require(bool ok, const Args&... message) {
    if (!ok) throw Error(cat(message...));
}

/// Throws InputError unless `ok`; for conditions that the user's input can break.
template <class... Args>
void require_input(bool ok, const Args&... message) {
    if (!ok) throw InputError(cat(message...));
}

}  // namespace uipe
