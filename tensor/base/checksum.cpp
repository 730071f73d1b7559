#include "tensor/base/checksum.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace uipe {
namespace {

constexpr std::uint64_t prime = 0x9e3779b97f4a7c15U;  // 2^64 divided by the golden ratio, made odd

std::uint64_t mixed(std::uint64_t lane, std::uint64_t word) { return std::rotl((lane ^ word) * prime, 29); }

}  // namespace

void Checksum::add(const void* data, std::size_t size) {
    // Four lanes: each multiplication waits for the one before it in its own lane alone.
    const auto* bytes = static_cast<const unsigned char*>(data);
    std::uint64_t lane[lanes];
    std::memcpy(lane, lanes_, sizeof lane);
    for (std::size_t at = 0; at < size; at += sizeof lane) {
        std::uint64_t words[lanes] = {};
        std::memcpy(words, bytes + at, size - at < sizeof lane ? size - at : sizeof lane);
        for (std::size_t i = 0; i < lanes; ++i) lane[i] = mixed(lane[i], words[i]);
    }
    std::memcpy(lanes_, lane, sizeof lane);
    size_ += size;
}

std::uint64_t Checksum::value() const {
    std::uint64_t sum = mixed(prime, size_);
    for (const std::uint64_t l : lanes_) sum = mixed(sum, l);
    return sum ^ sum >> 32;
}

std::uint64_t checksum(const void* data, std::size_t size) {
    Checksum sum;
    sum.add(data, size);
    return sum.value();
}

std::uint64_t checksum_of_file(const fs::path& file) {
    constexpr std::size_t piece = std::size_t{64} << 20;
    const MappedFile map(file);
    Checksum sum;
    for (std::size_t at = 0; at < map.size(); at += piece) {
        const std::size_t size = std::min(piece, map.size() - at);
        sum.add(map.data() + at, size);
        map.release(at, size);
    }
    return sum.value();
}

}  // namespace uipe
