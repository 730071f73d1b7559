#include "tensor/base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "tensor/base/error.h"

namespace uipe {
namespace {

/// An open file descriptor that closes itself.
struct Descriptor {
    int fd;
    explicit Descriptor(int descriptor) : fd(descriptor) {}
    ~Descriptor() {
        if (fd >= 0) ::close(fd);
    }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
};

/// Of a call that is done: as arguments of one function, the call may come after its reason.
std::string reason() { return std::strerror(errno); }

std::size_t open_size(const Descriptor& file, const fs::path& path) {
    require_input(file.fd >= 0, path.string(), ": ", reason());
    struct stat status {};
    const bool known = ::fstat(file.fd, &status) == 0;
    require(known, path.string(), ": ", reason());
    require_input(!S_ISDIR(status.st_mode), path.string(), ": is a folder, a file is needed");
    require_input(S_ISREG(status.st_mode), path.string(), ": is not a regular file");
    return static_cast<std::size_t>(status.st_size);
}

void sync_path(const fs::path& path, int flags) {
    const Descriptor file(::open(path.c_str(), flags));
    require(file.fd >= 0, path.string(), ": ", reason());
    const bool synced = ::fsync(file.fd) == 0;
    require(synced, path.string(), ": cannot sync: ", reason());
}

void sync_folder_of(const fs::path& path) {
    const fs::path parent = path.parent_path();
    sync_path(parent.empty() ? fs::path(".") : parent, O_RDONLY | O_DIRECTORY);
}

void write_synced(const fs::path& path, std::string_view bytes) {
    const Descriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    require(file.fd >= 0, path.string(), ": cannot write: ", reason());
    std::size_t done = 0;
    while (done < bytes.size()) {
        const ssize_t n = ::write(file.fd, bytes.data() + done, bytes.size() - done);
        require(n > 0, path.string(), ": cannot write: ", reason());
        done += static_cast<std::size_t>(n);
    }
    const bool synced = ::fsync(file.fd) == 0;
    require(synced, path.string(), ": cannot sync: ", reason());
}

/// What a write to `path` replaces: the file a link points to. Devices, pipes and sockets are refused, since renaming
/// over one would destroy it.
fs::path write_target(const fs::path& path) {
    require_input(!path.empty(), "an output path is empty");
    const fs::path target = fs::is_symlink(path) ? fs::weakly_canonical(path) : path;
    require_input(!fs::exists(target) || fs::is_regular_file(target) || fs::is_directory(target), path.string(),
                  ": is no regular file or folder; choose another output");
    return target;
}

fs::path temporary_beside(const fs::path& path) {
    fs::path clean = path;
    if (!clean.has_filename()) clean = clean.parent_path();  // "out/" names the folder "out"
    if (clean.has_parent_path()) fs::create_directories(clean.parent_path());
    clean += ".tmp-" + std::to_string(::getpid());
    return clean;
}

}  // namespace

std::string read_file(const fs::path& path) {
    const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    std::string bytes(open_size(file, path), '\0');
    std::size_t done = 0;
    while (done < bytes.size()) {
        const ssize_t n = ::read(file.fd, bytes.data() + done, bytes.size() - done);
        require(n > 0, path.string(), ": read failed at byte ", done, ": ", reason());
        done += static_cast<std::size_t>(n);
    }
    return bytes;
}

void write_file(const fs::path& to, std::string_view bytes) {
    const fs::path path = write_target(to);
    const fs::path temporary = temporary_beside(path);
    try {
        write_synced(temporary, bytes);
        fs::rename(temporary, path);
    } catch (...) {
        ::unlink(temporary.c_str());
        throw;
    }
    sync_folder_of(path);
}

MappedFile::MappedFile(const fs::path& path) {
    const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    size_ = open_size(file, path);
    if (size_ == 0) return;
    void* map = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.fd, 0);
    require(map != MAP_FAILED, path.string(), ": cannot map: ", reason());
    data_ = static_cast<const std::byte*>(map);
}

MappedFile::~MappedFile() {
    if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::release(std::size_t begin, std::size_t size) const {
    const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    const std::size_t first = (begin + page - 1) / page * page;
    const std::size_t last = begin + size == size_ ? size_ : (begin + size) / page * page;
    if (first < last) (void)::madvise(const_cast<std::byte*>(data_) + first, last - first, MADV_DONTNEED);
}

void write_folder(const fs::path& path, const std::function<void(const fs::path&)>& fill) {
    fs::path target = path;
    if (!target.has_filename()) target = target.parent_path();
    const fs::path temporary = temporary_beside(target);
    fs::remove_all(temporary);
    fs::create_directories(temporary);
    try {
        fill(temporary);
        for (const auto& entry : fs::recursive_directory_iterator(temporary))
            sync_path(entry.path(), entry.is_directory() ? O_RDONLY | O_DIRECTORY : O_RDONLY);
        sync_path(temporary, O_RDONLY | O_DIRECTORY);
        fs::path old = target;
        old += ".tmp-old-" + std::to_string(::getpid());
        const bool replaces = fs::exists(target);
        if (replaces) fs::rename(target, old);
        std::error_code failed;
        fs::rename(temporary, target, failed);
        if (failed && replaces) fs::rename(old, target);
        require(!failed, target.string(), ": cannot write: ", failed.message());
        if (replaces) fs::remove_all(old);
    } catch (...) {
        std::error_code ignored;
        fs::remove_all(temporary, ignored);
        throw;
    }
    sync_folder_of(target);
}

}  // namespace uipe
