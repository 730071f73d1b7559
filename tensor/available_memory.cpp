#include "tensor/available_memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <string>

#ifdef UIPE_CUDA
#include "tensor/cuda/runtime.h"
#endif

namespace uipe::tensor {
namespace {

/// The number behind `name` in a file of lines "name number"; of a file of one number where `name` is empty.
std::optional<std::size_t> number_in(const fs::path& file, const std::string& name = "") {
    std::ifstream in(file);
    for (std::string word; in >> word;) {
        if (!name.empty() && word != name) continue;
        if (!name.empty()) in >> word;
        const bool digits = !word.empty() && word.size() < 20 &&
                            std::all_of(word.begin(), word.end(), [](char c) { return '0' <= c && c <= '9'; });
        return digits ? std::optional<std::size_t>(std::stoull(word)) : std::nullopt;  // "max": no limit
    }
    return {};
}

/// What a version of control groups calls its files.
struct Names {
    const char *limit, *usage, *cache;
};
constexpr Names version_1{"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"};
constexpr Names version_2{"memory.max", "memory.current", "inactive_file"};

/// What the limits of a group and of those above it leave. Files that were read and are not in use can be dropped.
std::size_t left_in_groups(fs::path group, const fs::path& top, const Names& names) {
    std::size_t least = std::numeric_limits<std::size_t>::max();
    for (;; group = group.parent_path()) {
        const auto limit = number_in(group / names.limit);
        const auto usage = number_in(group / names.usage);
        if (limit && usage) {
            const std::size_t cache = number_in(group / "memory.stat", names.cache).value_or(0);
            const std::size_t held = *usage - std::min(*usage, cache);
            least = std::min(least, *limit - std::min(*limit, held));
        }
        if (group == top || !group.has_relative_path()) return least;
    }
}

}  // namespace

std::size_t available_host_memory(const fs::path& root) {
    std::size_t least = std::numeric_limits<std::size_t>::max();
    if (const auto kib = number_in(root / "proc/meminfo", "MemAvailable:")) least = *kib * 1024;
    std::ifstream groups(root / "proc/self/cgroup");
    for (std::string line; std::getline(groups, line);) {  // "0::/path", or "4:memory:/path" of version 1
        const std::size_t first = line.find(':');
        const std::size_t second = line.find(":/", first);
        if (second == std::string::npos) continue;
        const std::string path = line.substr(second + 2);
        const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
        const fs::path top = root / "sys/fs/cgroup";
        if (line.starts_with("0::"))
            least = std::min(least, left_in_groups(path.empty() ? top : top / path, top, version_2));
        else if (controllers.find(",memory,") != std::string::npos)
            least = std::min(least, left_in_groups(path.empty() ? top / "memory" : top / "memory" / path,
                                                   top / "memory", version_1));
    }
    return least;
}

std::size_t available_memory(Device device) {
#ifdef UIPE_CUDA
    if (device.kind == Device::Kind::cuda) return cuda::device_memory().free;
#endif
    require(device.kind == Device::Kind::cpu, "no memory on ", name_of(device));
    return available_host_memory();
}

}  // namespace uipe::tensor
