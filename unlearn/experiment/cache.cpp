#include "unlearn/experiment/cache.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <tuple>

#include "tensor/base/checksum.h"
#include "tensor/base/error.h"
#include "unlearn/cli/command.h"
#include "unlearn/progress.h"

namespace uipe::unlearn {
namespace {

/// To be counted up when a command comes to compute something else: results of earlier programs are then not used.
constexpr const char* version = "2";

/// A checksum of what is in a file; a model is read once, while it stays as it is.
std::uint64_t content_of(const fs::path& file) {
    static std::map<std::tuple<fs::path, std::uintmax_t, fs::file_time_type>, std::uint64_t> known;
    const std::tuple key{file, fs::file_size(file), fs::last_write_time(file)};
    const auto at = known.find(key);
    return at != known.end() ? at->second : known[key] = checksum_of_file(file);
}

class Hash {  // FNV-1a
public:
    void add(std::string_view text) {
        for (const char c : text) value_ = (value_ ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
        value_ = (value_ ^ 0xffU) * 0x100000001b3U;  // "ab", "c" is not "a", "bc"
    }
    std::string text() const {
        char digits[17];
        std::snprintf(digits, sizeof digits, "%010llx", static_cast<unsigned long long>(value_ >> 24U));
        return digits;
    }

private:
    std::uint64_t value_ = 0xcbf29ce484222325U;
};

bool inside(const fs::path& path, const fs::path& folder) {
    const fs::path a = fs::weakly_canonical(path);
    const fs::path b = fs::weakly_canonical(folder);
    return std::mismatch(b.begin(), b.end(), a.begin(), a.end()).first == b.end();
}

bool is_run(const std::string& command) { return command == "train" || command == "unlearn"; }

/// The file by which a command's folder is known to be whole.
fs::path last_file(const fs::path& folder, const std::string& command) {
    if (is_run(command)) return folder / "finished.json";
    if (command == "world") return folder / "world.json";
    return folder / "TOFU_SUMMARY.json";
}

}  // namespace

fs::path Cache::place(const std::string& name, const Words& words) const {
    Hash hash;
    hash.add(version);
    for (std::size_t i = 0; i < common_.size(); ++i)
        if (common_[i] == "--threads")
            ++i;  // results have the same bits for any number
        else
            hash.add(common_[i]);
    for (const std::string& word : words) {
        const bool file = word.find('/') != std::string::npos && fs::exists(word);
        if (file && inside(word, folder_)) {  // its name holds the hash of all that made it; the folder may be moved
            hash.add(fs::relative(word, folder_).string());
            continue;
        }
        std::vector<fs::path> files;
        if (file && fs::is_regular_file(word)) files.emplace_back(word);
        if (file && fs::is_directory(word))
            for (const auto& entry : fs::directory_iterator(word))
                if (entry.is_regular_file()) files.push_back(entry.path());
        hash.add(files.empty() ? word : std::to_string(files.size()));
        std::sort(files.begin(), files.end());
        for (const fs::path& path : files) {
            hash.add(path.filename().string());
            hash.add(std::to_string(content_of(path)));
        }
    }
    return folder_ / (name + "-" + hash.text());
}

fs::path Cache::run(const std::string& name, const Words& words) const {
    const std::string& command = words.front();
    const fs::path folder = place(name, words);
    // An extrapolation goes to a folder within, named by epoch and alpha, and is whole as soon as that is there.
    const bool inner = command == "extrapolate";
    const auto done = [&] {
        if (!inner) return fs::exists(last_file(folder, command));
        return fs::exists(folder) && !fs::is_empty(folder) &&
               fs::exists(last_file(fs::directory_iterator(folder)->path(), command));
    };
    const auto result = [&] { return inner ? fs::directory_iterator(folder)->path() : folder; };
    if (done()) return result();
    Words all = words;
    all.insert(all.end(), {"--out", folder.string()});
    all.insert(all.end(), common_.begin(), common_.end());
    if (is_run(command) && fs::exists(folder / "config.json"))
        all.emplace_back("--resume");
    else if (fs::exists(folder))
        fs::remove_all(folder);
    std::string line = "\n$ uipe";
    for (const std::string& word : all) line += " " + word;
    say(line);
    run_command(all);
    require(done(), folder.string(), ": ", command, " left nothing there");
    return result();
}

fs::path Cache::make(const std::string& name, const Words& words,
                     const std::function<void(const fs::path&)>& fill) const {
    const fs::path folder = place(name, words);
    if (!fs::exists(folder)) {
        fs::create_directories(folder_);
        write_folder(folder, fill);
    }
    return folder;
}

}  // namespace uipe::unlearn
