// Parts of vectors: what they load and what they leave alone.
#include "tensor/cpu/simd.h"

#include "tensor/cpu/cpu.h"
#include "tests/tensor/reference.h"

namespace uipe::tensor::cpu {
namespace {

constexpr std::int64_t before = 3;  // a part may start anywhere

template <class T>
class Parts : public ::testing::Test {};
using Types = ::testing::Types<float, double, bf16>;
TYPED_TEST_SUITE(Parts, Types);

TYPED_TEST(Parts, LoadZerosBeyondTheirEndAndStoreNothingThere) {
    using T = TypeParam;
    using A = acc_t<T>;
    for (std::int64_t n = 1; n < lanes<A>; ++n) {
        std::vector<T> x(static_cast<std::size_t>(before + n));  // not an element more, for AddressSanitizer
        for (std::size_t j = 0; j < x.size(); ++j) x[j] = static_cast<T>(static_cast<float>(j + 1));
        const Part part{before, n};
        const auto v = part.load(x.data());
        for (std::int64_t j = 0; j < lanes<A>; ++j)
            EXPECT_EQ(v[j], j < n ? static_cast<A>(before + j + 1) : A{0}) << j << " of " << n;

        std::vector<T> y(static_cast<std::size_t>(before + lanes<A>), static_cast<T>(-1.0F));
        part.store(y.data(), Vector<A>(v + A{100}));
        for (std::int64_t j = -before; j < lanes<A>; ++j)
            EXPECT_EQ(static_cast<A>(y[static_cast<std::size_t>(before + j)]),
                      0 <= j && j < n ? static_cast<A>(before + j + 101) : A{-1})
                << j << " of " << n;
    }
}

TEST(PartsOfIntegers, AreStoredAsTheBitsOfBf16) {
    Vector<std::uint32_t> bits;
    for (int j = 0; j < lanes<float>; ++j) bits[j] = 0x3f80U + static_cast<std::uint32_t>(j);
    for (std::int64_t n = 1; n < lanes<float>; ++n) {
        std::vector<bf16> y(static_cast<std::size_t>(lanes<float>), bf16(-1.0F));
        Part{0, n}.store(y.data(), bits);
        for (std::int64_t j = 0; j < lanes<float>; ++j)
            EXPECT_EQ(y[static_cast<std::size_t>(j)].bits, j < n ? 0x3f80 + j : bf16(-1.0F).bits) << j << " of " << n;
    }
}

}  // namespace
}  // namespace uipe::tensor::cpu
