// Files: whole reads, read-only maps, and writes that are either whole or not there.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace uipe {

namespace fs = std::filesystem;

/// The bytes of a regular file. InputError names the path when it is missing, a folder, or unreadable.
std::string read_file(const fs::path& path);

/// Writes to `path` + a temporary suffix, syncs, then renames: a file that exists is whole.
void write_file(const fs::path& path, std::string_view bytes);

/// A read-only memory map of a whole file. Pages come from the file when touched.
class MappedFile {
public:
    explicit MappedFile(const fs::path& path);
    ~MappedFile();
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;

    const std::byte* data() const { return data_; }
    std::size_t size() const { return size_; }
    /// Gives back the memory of the pages within [begin, begin + size); they come again when touched.
    void release(std::size_t begin, std::size_t size) const;

private:
    const std::byte* data_ = nullptr;
    std::size_t size_ = 0;
};

/// Calls `fill(temporary)` on a fresh folder beside `path`, syncs its files, then renames it to `path`.
/// An existing `path` is replaced; when `fill` throws, the temporary folder is removed and `path` is untouched.
void write_folder(const fs::path& path, const std::function<void(const fs::path& temporary)>& fill);

}  // namespace uipe
