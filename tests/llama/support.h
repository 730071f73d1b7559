// What the tests of this floor share: a folder that cleans itself up, messages of faults, the real data.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <optional>
#include <string>

#include "llama/config.h"
#include "llama/safetensors.h"
#include "tensor/base/error.h"
#include "tensor/base/file.h"
#include "tensor/random.h"

namespace uipe::llama {

inline const fs::path fixtures = FIXTURES;

/// A fresh folder, removed with everything in it at the end of the test.
class TemporaryFolder {
public:
    TemporaryFolder() {
        const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
        path_ = fs::temp_directory_path() / cat("uipe-", test->test_suite_name(), "-", test->name(), "-", ::getpid());
        fs::remove_all(path_);
        fs::create_directories(path_);
    }
    ~TemporaryFolder() {
        std::error_code ignored;
        fs::remove_all(path_, ignored);
    }
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;
    fs::path operator/(const std::string& name) const { return path_ / name; }
    const fs::path& path() const { return path_; }

private:
    fs::path path_;
};

/// The message of the Fault that `act` throws; a test failure when it throws none.
template <class Fault = InputError>
std::string message_of(const std::function<void()>& act) {
    try {
        act();
    } catch (const Fault& e) {
        EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos) << e.what();
        return e.what();
    }
    ADD_FAILURE() << "no error was thrown";
    return {};
}

#define EXPECT_SAYS(message, part) EXPECT_PRED_FORMAT2(::testing::IsSubstring, std::string(part), message)

/// The folder of real data, when the environment names one.
inline std::optional<fs::path> real_data() {
    const char* path = std::getenv("UIPE_DATA");
    return path == nullptr ? std::nullopt : std::optional<fs::path>(path);
}

/// A model of a few thousand numbers: C 12, F 20, L 2, H 4, K 2, D 4 (H D differs from C), V 32.
inline Config small_config() {
    Config c;
    c.hidden_size = 12;
    c.intermediate_size = 20;
    c.num_layers = 2;
    c.num_heads = 4;
    c.num_kv_heads = 2;
    c.head_dim = 4;
    c.vocab_size = 32;
    c.max_position_embeddings = 64;
    c.rms_norm_eps = 1e-5;
    return c;
}

/// Random weights of a config's names and shapes.
inline StateDict random_weights(const Config& config) {
    tensor::Random random(7, 0);
    StateDict weights;
    for (const auto& [name, shape] : expected_weights(config)) {
        tensor::Tensor t = tensor::Tensor::empty(shape, tensor::DType::f32);
        for (std::int64_t i = 0; i < t.numel(); ++i) t.data<float>()[i] = static_cast<float>(random.normal());
        weights[name] = t;
    }
    return weights;
}

}  // namespace uipe::llama
