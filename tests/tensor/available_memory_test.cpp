#include "tensor/available_memory.h"

#include <unistd.h>

#include <limits>

#include "tests/tensor/reference.h"

namespace uipe::tensor::test {
namespace {

/// A tree of files as the kernel shows them, gone at the end of the test.
class Kernel {
public:
    Kernel() : root_(fs::temp_directory_path() / cat("uipe-kernel-", ::getpid())) { fs::remove_all(root_); }
    ~Kernel() { fs::remove_all(root_); }
    Kernel(const Kernel&) = delete;
    Kernel& operator=(const Kernel&) = delete;

    void has(const std::string& file, const std::string& text) const {
        fs::create_directories((root_ / file).parent_path());
        write_file(root_ / file, text);
    }
    std::size_t available() const { return available_host_memory(root_); }

private:
    fs::path root_;
};

constexpr std::size_t unknown = std::numeric_limits<std::size_t>::max();

TEST(AvailableMemory, IsWhatTheMachineHas) {
    const Kernel kernel;
    EXPECT_EQ(kernel.available(), unknown);
    kernel.has("proc/meminfo", "MemTotal:  8000 kB\nMemFree:  10 kB\nMemAvailable:   4096 kB\n");
    EXPECT_EQ(kernel.available(), std::size_t{4} << 20);
}

TEST(AvailableMemory, IsWhatTheTightestGroupLeaves) {
    const Kernel kernel;
    kernel.has("proc/meminfo", "MemAvailable: 1000000 kB\n");
    kernel.has("proc/self/cgroup", "0::/outer/inner\n");
    kernel.has("sys/fs/cgroup/outer/inner/memory.max", "max\n");
    kernel.has("sys/fs/cgroup/outer/inner/memory.current", "900\n");
    EXPECT_EQ(kernel.available(), std::size_t{1000000} << 10);
    kernel.has("sys/fs/cgroup/outer/memory.max", "5000\n");
    kernel.has("sys/fs/cgroup/outer/memory.current", "3000\n");
    EXPECT_EQ(kernel.available(), 2000U);
    kernel.has("sys/fs/cgroup/outer/memory.stat", "anon 1\ninactive_file 500\nactive_file 7\n");
    EXPECT_EQ(kernel.available(), 2500U);
    kernel.has("sys/fs/cgroup/outer/inner/memory.max", "1000\n");
    EXPECT_EQ(kernel.available(), 100U);
    kernel.has("sys/fs/cgroup/outer/inner/memory.current", "2000\n");
    EXPECT_EQ(kernel.available(), 0U);
}

TEST(AvailableMemory, KnowsTheFirstVersionOfControlGroups) {
    const Kernel kernel;
    kernel.has("proc/meminfo", "MemAvailable: 1000000 kB\n");
    kernel.has("proc/self/cgroup", "5:cpu,cpuacct:/\n4:hugetlb,memory:/box\n");
    kernel.has("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "7000\n");
    kernel.has("sys/fs/cgroup/memory/box/memory.usage_in_bytes", "3000\n");
    kernel.has("sys/fs/cgroup/memory/box/memory.stat", "total_inactive_file 1000\n");
    EXPECT_EQ(kernel.available(), 5000U);
}

TEST(AvailableMemory, ThisMachineHasSome) { EXPECT_GT(available_memory({}), std::size_t{1} << 20); }

}  // namespace
}  // namespace uipe::tensor::test
