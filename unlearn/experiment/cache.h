// Commands whose results are kept: an experiment is a script of uipe's own commands, each run once for its arguments.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "tensor/base/file.h"

namespace uipe::unlearn {

using Words = std::vector<std::string>;

/// A folder of results, each in NAME-KEY, where KEY is a hash of the command, of what is in the files that it reads
/// from elsewhere, wherever they lie (of a folder its own, not those of folders in it), and of a count of changes to
/// what is computed. A repeated or extended experiment computes only what is new, also on another machine; one that was
/// killed goes on where it was.
class Cache {
public:
    /// `common`: words behind every command, such as --dtype bf16. All but --threads belong to the key.
    Cache(fs::path folder, Words common) : folder_(std::move(folder)), common_(std::move(common)) {}

    /// The folder that `uipe WORDS… --out FOLDER` leaves; the command runs unless it has. Its first word is train,
    /// unlearn, world, eval or extrapolate (of one alpha and a given epoch).
    fs::path run(const std::string& name, const Words& words) const;

    /// A folder that `fill` leaves, for what is no command; `words` say of what it is made.
    fs::path make(const std::string& name, const Words& words,
                  const std::function<void(const fs::path& temporary)>& fill) const;

private:
    fs::path place(const std::string& name, const Words& words) const;

    fs::path folder_;
    Words common_;
};

}  // namespace uipe::unlearn
