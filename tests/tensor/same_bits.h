// The same bits on every run and for any number of threads. Each run is a process of its own, because what a process
// did before with another number of threads may stay: cached blocks of memory, products planned for so many threads.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>

#include "tensor/base/file.h"
#include "tensor/ops.h"
#include "tensor/parallel.h"

namespace uipe::tensor::test {

/// Numbers in [-1, 1), the same in every process. (fill_normal is under test, and slow for millions.)
inline Tensor noise(const Shape& shape, DType dtype, std::uint32_t stream) {
    const Tensor x = Tensor::empty(shape, DType::f32);
    float* out = x.data<float>();
    for (std::int64_t i = 0; i < x.numel(); ++i) {
        std::uint32_t h = (static_cast<std::uint32_t>(i) + stream * 0x632BE5ABU) * 0x9E3779B1U;
        h = (h ^ (h >> 15)) * 0x85EBCA77U;
        h = (h ^ (h >> 13)) * 0xC2B2AE3DU;
        out[i] = static_cast<float>(static_cast<std::int32_t>(h)) * 0x1p-31F;
    }
    return x.to(dtype);
}

/// Indices in [0, n), every `skip`-th of them -1 (0: none).
inline Tensor noisy_indices(std::int64_t count, std::int64_t n, std::int64_t skip = 0) {
    std::vector<std::int32_t> out;
    for (std::int64_t i = 0; i < count; ++i)
        out.push_back(skip > 0 && i % skip == 0 ? -1 : static_cast<std::int32_t>((i * 7919 + i * i) % n));
    return Tensor::from(out);
}

/// FNV-1a over the bytes of tensors, eight at a time.
inline std::uint64_t hash_of(const std::vector<Tensor>& tensors) {
    std::uint64_t hash = 0xcbf29ce484222325U;
    for (const Tensor& t : tensors) {
        const auto* bytes = static_cast<const std::byte*>(t.raw());
        for (std::size_t at = 0; at < t.nbytes(); at += 8) {
            std::uint64_t word = 0;
            std::memcpy(&word, bytes + at, std::min<std::size_t>(8, t.nbytes() - at));
            hash = (hash ^ word) * 0x100000001b3U;
        }
    }
    return hash;
}

/// What a test runs: take(name, outputs) for each case.
using Take = std::function<void(const std::string& name, const std::vector<Tensor>& outputs)>;
using Cases = std::function<void(const Take& take)>;

constexpr const char* threads_variable = "UIPE_TEST_THREADS";

/// Runs the current test again in a process with so many threads, and reads the hash of each case.
inline std::map<std::string, std::string> hashes_with(int threads) {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    const std::string command =
        cat(threads_variable, "=", threads, " OMP_WAIT_POLICY=passive '", fs::read_symlink("/proc/self/exe").string(),
            "' '--gtest_filter=", test->test_suite_name(), ".", test->name(), "'");
    FILE* out = ::popen(command.c_str(), "r");
    require(out != nullptr, "cannot run ", command);
    std::map<std::string, std::string> hashes;
    char line[400];
    while (std::fgets(line, sizeof line, out) != nullptr) {
        const std::string text = line;
        if (text.starts_with("bits ")) hashes[text.substr(22)] = text.substr(5, 16);
    }
    EXPECT_EQ(::pclose(out), 0) << command;
    return hashes;
}

/// In the process of a test: runs the cases in a process each with 1, again 1, 2 and 4 threads, and names every case
/// whose bits differ. In such a process: prints their hashes.
inline void expect_same_bits(const Cases& cases) {
    if (const char* threads = std::getenv(threads_variable); threads != nullptr) {
        set_num_threads(std::atoi(threads));
        cases([](const std::string& name, const std::vector<Tensor>& outputs) {
            std::printf("bits %016lx %s\n", static_cast<unsigned long>(hash_of(outputs)), name.c_str());
        });
        return;
    }
    const std::map<std::string, std::string> first = hashes_with(1);
    ASSERT_FALSE(first.empty());
    for (const int threads : {1, 2, 4}) {
        const std::map<std::string, std::string> again = hashes_with(threads);
        ASSERT_EQ(again.size(), first.size());
        for (const auto& [name, hash] : again)
            EXPECT_EQ(hash, first.at(name)) << "with " << threads << " threads: " << name;
    }
}

}  // namespace uipe::tensor::test
