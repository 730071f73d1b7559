#include "llama/safetensors.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "support.h"

namespace uipe::llama {
namespace {

using tensor::bf16;
using tensor::DType;
using tensor::Tensor;

/// The bytes of a file with this header and data.
std::string file_of(const std::string& header, const std::string& data) {
    const std::uint64_t length = header.size();
    return std::string(reinterpret_cast<const char*>(&length), 8) + header + data;
}

std::string fault(const std::string& bytes) {
    const TemporaryFolder folder;
    write_file(folder / "x.safetensors", bytes);
    const std::string message = message_of([&] { read_safetensors(folder / "x.safetensors"); });
    EXPECT_SAYS(message, "x.safetensors");
    return message;
}

/// The fault of a header over eight bytes of data.
std::string header_fault(const std::string& header) { return fault(file_of(header, "12345678")); }

TEST(Safetensors, ComesBackAsWritten) {
    const TemporaryFolder folder;
    const StateDict written = {{"a.bf16", Tensor::from<bf16>({1.5F, -2.0F, 0.25F})},
                               {"b.f64", Tensor::from<double>({1.0 / 3, 2.0}, {2, 1})},
                               {"c.f32", Tensor::from<float>({1, 2, 3, 4, 5, 6}, {2, 3})},
                               {"d.i32", Tensor::from<std::int32_t>({-7})},
                               {"e.empty", Tensor::empty({0, 4}, DType::f32)},
                               {"f.scalar", Tensor::from<float>({9}).view({})}};
    write_safetensors(folder / "x.safetensors", written);
    const StateDict read = read_safetensors(folder / "x.safetensors");
    ASSERT_EQ(read.size(), written.size());
    for (const auto& [name, t] : written) {
        const Tensor& r = read.at(name);
        EXPECT_EQ(r.shape(), t.shape()) << name;
        ASSERT_EQ(r.dtype(), t.dtype()) << name;
        EXPECT_EQ(std::memcmp(r.raw(), t.raw(), t.nbytes()), 0) << name;
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(r.raw()) % size_of(r.dtype()), 0U) << name;
    }
}

TEST(Safetensors, WritesAnAlignedHeaderAndLeavesNoTemporary) {
    const TemporaryFolder folder;
    write_safetensors(folder / "x.safetensors", {{"w", Tensor::from<float>({1})}});
    const std::string bytes = read_file(folder / "x.safetensors");
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data(), 8);
    EXPECT_EQ(length % 8, 0U);
    EXPECT_EQ(bytes.substr(8, length).find("{\"__metadata__\":{\"format\":\"pt\"}"), 0U);
    EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1);
}

TEST(Safetensors, AFailedWriteLeavesTheOldFile) {
    const TemporaryFolder folder;
    write_safetensors(folder / "x.safetensors", {{"w", Tensor::from<float>({1})}});
    message_of<Error>([&] { write_safetensors(folder / "x.safetensors", {{"w", Tensor()}}); });
    EXPECT_EQ(read_safetensors(folder / "x.safetensors").at("w").item(), 1.0);
    EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1);
}

TEST(Safetensors, TensorsAreViewsThatOutliveTheReader) {
    const TemporaryFolder folder;
    write_safetensors(folder / "x.safetensors", {{"a", Tensor::from<float>({1, 2})}, {"b", Tensor::from<float>({3})}});
    Tensor b;
    {
        const StateDict read = read_safetensors(folder / "x.safetensors");
        b = read.at("b");
        EXPECT_EQ(read.at("a").data<float>() + 2, b.data<float>());  // neighbours in one map
    }
    fs::remove(folder / "x.safetensors");
    EXPECT_EQ(b.item(), 3.0);
}

TEST(Safetensors, ConvertsHalfPrecision) {
    const std::uint16_t halves[] = {0x3c00, 0xc000, 0x0001, 0x03ff, 0x0400, 0x7bff, 0x7c00, 0x8000, 0x7e00, 0x3555};
    const float expected[] = {1,
                              -2,
                              std::ldexp(1.0F, -24),
                              std::ldexp(1023.0F, -24),
                              std::ldexp(1.0F, -14),
                              65504,
                              std::numeric_limits<float>::infinity(),
                              -0.0F,
                              std::numeric_limits<float>::quiet_NaN(),
                              0.333251953125F};
    const TemporaryFolder folder;
    const std::string data(reinterpret_cast<const char*>(halves), sizeof halves);
    write_file(folder / "h.safetensors", file_of(R"({"h":{"dtype":"F16","shape":[10],"data_offsets":[0,20]}})", data));
    const Tensor h = read_safetensors(folder / "h.safetensors").at("h");
    for (int i = 0; i < 10; ++i) {
        const float x = h.data<float>()[i];
        EXPECT_TRUE(x == expected[i] || (std::isnan(x) && std::isnan(expected[i]))) << i << ": " << x;
        EXPECT_TRUE(std::isnan(x) || std::signbit(x) == std::signbit(expected[i])) << i;
    }
}

TEST(Safetensors, CopiesMisalignedData) {
    const float values[] = {1.25F, -3.5F};
    const std::string data(reinterpret_cast<const char*>(values), sizeof values);
    const TemporaryFolder folder;
    std::string header = R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
    header.append(header.size() % 4 == 1 ? 0 : (5 - header.size() % 4) % 4, ' ');
    ASSERT_NE(header.size() % 4, 0U);
    write_file(folder / "w.safetensors", file_of(header, data));
    EXPECT_EQ(read_safetensors(folder / "w.safetensors").at("w").to_vector<float>(),
              (std::vector<float>{1.25F, -3.5F}));
}

TEST(Safetensors, RefusesAHeaderThatDoesNotFitTheFile) {
    EXPECT_SAYS(fault(""), "too few");
    EXPECT_SAYS(fault("1234567"), "too few");
    std::string bytes = file_of("{}", "");
    const std::uint64_t huge = 100'000'000'000;
    std::memcpy(bytes.data(), &huge, 8);
    EXPECT_SAYS(fault(bytes), "header of 100000000000 bytes");
    std::memset(bytes.data(), 0xff, 8);
    EXPECT_SAYS(fault(bytes), "header of 18446744073709551615 bytes");
}

TEST(Safetensors, RefusesABrokenHeader) {
    EXPECT_SAYS(header_fault(R"({"w":)"), "JSON fault at byte");
    EXPECT_SAYS(header_fault(""), "JSON fault");
    EXPECT_SAYS(header_fault("[1]"), "no JSON object");
    EXPECT_SAYS(header_fault(std::string(100000, '[')), "nested too deep");
    EXPECT_SAYS(header_fault(R"({"w":7})"), "\"w\": is no object");
    EXPECT_SAYS(header_fault(R"({"w":{"shape":[2],"data_offsets":[0,8]}})"), "no dtype");
    EXPECT_SAYS(header_fault(R"({"w":{"dtype":"F32","data_offsets":[0,8]}})"), "no shape");
    EXPECT_SAYS(header_fault(R"({"w":{"dtype":"F32","shape":[2]}})"), "no data_offsets");
    EXPECT_SAYS(header_fault(R"({"w":{"dtype":"I8","shape":[8],"data_offsets":[0,8]}})"), "dtype \"I8\"");
    EXPECT_SAYS(header_fault(R"({"w":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})"), "shape");
    EXPECT_SAYS(header_fault(R"({"w":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})"), "shape");
    EXPECT_SAYS(header_fault(R"({"w":{"dtype":"F32","shape":[1e999],"data_offsets":[0,8]}})"), "out of range");
    EXPECT_SAYS(header_fault(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0]}})"), "[begin, end]");
    EXPECT_SAYS(header_fault(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})"), "[begin, end]");
    const std::string w = R"("w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
    EXPECT_SAYS(header_fault("{" + w + "," + w + "}"), "names \"w\" twice");
    EXPECT_SAYS(header_fault(R"({"w":{"dtype":"F32","shape":[2],"shape":[1],"data_offsets":[0,8]}})"),
                "\"shape\" twice");
}

TEST(Safetensors, RefusesAHeaderOfManyTensorsInShortTime) {
    std::string header = "{";
    for (int i = 0; i < 200000; ++i) header += cat(i > 0 ? "," : "", "\"", i, "\":0");
    EXPECT_SAYS(header_fault(header + "}"), "is no object");
}

TEST(Safetensors, RefusesOffsetsThatDoNotFitTheData) {
    const std::string half = R"(":{"dtype":"F32","shape":[1],"data_offsets":)";
    EXPECT_SAYS(header_fault(R"({"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}})"), "byte 16 of 8");
    EXPECT_SAYS(header_fault(R"({"w":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})"), "needs 12 bytes");
    EXPECT_SAYS(header_fault(R"({"w":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]}})"),
                "overflows");
    EXPECT_SAYS(header_fault(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551615]}})"),
                "data_offsets");
    EXPECT_SAYS(header_fault("{\"a" + half + "[0,4]},\"b" + half + "[2,6]}}"), "inside the tensor before");
    EXPECT_SAYS(header_fault("{\"a" + half + "[0,4]},\"b" + half + "[0,4]}}"), "inside the tensor before");
    EXPECT_SAYS(header_fault("{\"a" + half + "[4,8]}}"), "after a hole");
    EXPECT_SAYS(header_fault("{\"a" + half + "[0,4]}}"), "end at byte 4 of 8");
}

TEST(Safetensors, AnyFlippedByteIsAnErrorOrAReadableFile) {
    const TemporaryFolder folder;
    write_safetensors(folder / "x.safetensors",
                      {{"a", Tensor::from<float>({1, 2, 3, 4}, {2, 2})}, {"b", Tensor::from<bf16>({5.0F})}});
    const std::string good = read_file(folder / "x.safetensors");
    int refused = 0;
    for (std::size_t i = 0; i < good.size(); ++i)
        for (const int bit : {0, 3, 6}) {
            std::string bad = good;
            bad[i] = static_cast<char>(bad[i] ^ (1 << bit));
            write_file(folder / "bad.safetensors", bad);
            try {
                for (const auto& [name, t] : read_safetensors(folder / "bad.safetensors")) {
                    std::string copy(static_cast<const char*>(t.raw()), t.nbytes());  // a stray view would fault here
                    EXPECT_EQ(copy.size(), t.nbytes()) << name;
                }
            } catch (const InputError&) {
                ++refused;
            }
        }
    EXPECT_GT(refused, 100);
}

}  // namespace
}  // namespace uipe::llama
