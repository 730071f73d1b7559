// Element types. bf16 is the upper half of an f32, rounded to nearest even.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace uipe::tensor {

enum class DType : std::uint8_t { f64, f32, bf16, i32 };

constexpr std::size_t size_of(DType dtype) {
    switch (dtype) {
        case DType::f64:
            return 8;
        case DType::bf16:
            return 2;
        case DType::f32:
        case DType::i32:
            break;
    }
    return 4;
}

constexpr const char* name_of(DType dtype) {
    switch (dtype) {
        case DType::f64:
            return "f64";
        case DType::f32:
            return "f32";
        case DType::bf16:
            return "bf16";
        case DType::i32:
            break;
    }
    return "i32";
}

struct bf16 {
    std::uint16_t bits = 0;

    bf16() = default;
    constexpr bf16(float value) {  // NOLINT: implicit, as the built-in types are
        const auto u = std::bit_cast<std::uint32_t>(value);
        const bool nan = (u & 0x7fffffffU) > 0x7f800000U;
        bits = nan ? std::uint16_t{0x7fff} : static_cast<std::uint16_t>((u + 0x7fffU + ((u >> 16) & 1U)) >> 16);
    }
    constexpr operator float() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }  // NOLINT
};

template <class T>
struct dtype_of_t;
template <>
struct dtype_of_t<double> {
    static constexpr DType value = DType::f64;
};
template <>
struct dtype_of_t<float> {
    static constexpr DType value = DType::f32;
};
template <>
struct dtype_of_t<bf16> {
    static constexpr DType value = DType::bf16;
};
template <>
struct dtype_of_t<std::int32_t> {
    static constexpr DType value = DType::i32;
};
template <class T>
inline constexpr DType dtype_of = dtype_of_t<T>::value;

/// The type in which sums over elements of T are kept: f64 for f64, f32 for f32 and bf16.
constexpr DType accumulator_of(DType dtype) { return dtype == DType::f64 ? DType::f64 : DType::f32; }

}  // namespace uipe::tensor
