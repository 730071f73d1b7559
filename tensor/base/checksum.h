// A checksum that finds damaged files: fast, the same on every machine, no defence against intent.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tensor/base/file.h"

namespace uipe {

/// 64 bits of bytes that come in pieces, of which all but the last are multiples of 32.
class Checksum {
public:
    void add(const void* data, std::size_t size);
    std::uint64_t value() const;

private:
    static constexpr std::size_t lanes = 4;
    std::uint64_t lanes_[lanes] = {1, 2, 3, 4};
    std::uint64_t size_ = 0;
};

/// Of bytes that come in one piece.
std::uint64_t checksum(const void* data, std::size_t size);

/// Of a file's bytes, with little memory.
std::uint64_t checksum_of_file(const fs::path& file);

}  // namespace uipe
