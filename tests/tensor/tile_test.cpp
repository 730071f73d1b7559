// Products of small tiles, by whichever unit the processor has, against plain sums in f64.
#include "tensor/cpu/tile.h"

#include "tensor/cpu/cpu.h"
#include "tests/tensor/reference.h"

namespace uipe::tensor::cpu {
namespace {

using test::fresh;

template <class T>
class TileProduct : public ::testing::Test {};
using Types = ::testing::Types<float, double, bf16>;
TYPED_TEST_SUITE(TileProduct, Types);

constexpr std::int64_t room(std::int64_t n) { return round_up(n, 16); }

/// x[n,D] of normal numbers.
template <class T>
std::vector<T> drawn(std::int64_t n, std::int64_t D) {
    Random random = fresh();
    std::vector<T> x(static_cast<std::size_t>(n * D));
    for (T& v : x) v = static_cast<T>(static_cast<float>(random.normal()));
    return x;
}

/// y[m,n] = a b where a[i][l] and b[l][j] are given, of k numbers each; `start` is what y holds where it is added to.
template <class A, class F, class G>
void expect_product(const Tile<A>& y, std::int64_t m, std::int64_t n, std::int64_t k, A start, const F& a, const G& b) {
    for (std::int64_t i = 0; i < m; ++i)
        for (std::int64_t j = 0; j < n; ++j) {
            double sum = start, size = std::abs(static_cast<double>(start));
            for (std::int64_t l = 0; l < k; ++l) {
                const double term = static_cast<double>(a(i, l)) * static_cast<double>(b(l, j));
                sum += term;
                size += std::abs(term);
            }
            // Each of k additions rounds, in any order.
            const double near = static_cast<double>(k + 1) * std::numeric_limits<A>::epsilon() * size;
            ASSERT_NEAR(y.row(i)[j], sum, near) << i << ',' << j << " of " << m << 'x' << n << 'x' << k;
        }
}

TYPED_TEST(TileProduct, IsThatOfItsOperandsOnEitherSideAddedOrNot) {
    using T = TypeParam;
    using A = acc_t<T>;
    using E = element_t<T>;
    const AmxRegisters registers;
    for (const std::int64_t m : {1, 9, 16, 17, 24, 32, 41, 64})
        for (const std::int64_t n : {1, 16, 17, 40, 64})
            for (const std::int64_t k : {1, 2, 31, 32, 33, 64, 70, 150}) {
                const auto a = drawn<T>(m, k);   // [m,k]
                const auto at = drawn<T>(k, m);  // [k,m]
                const auto b = drawn<T>(k, n);   // [k,n]
                const std::int64_t elements = ceil_div(k, numbers<T>);
                Tile<E> left(room(m), elements), turned(room(elements), room(m)), right(room(elements), room(n));
                load_left(left, 0, a.data(), k, m, k);
                load_right(turned, 0, at.data(), m, k, m);
                load_right(right, 0, b.data(), n, k, n);
                const auto b_at = [&](std::int64_t l, std::int64_t j) {
                    return b[static_cast<std::size_t>(l * n + j)];
                };
                const auto a_at = [&](std::int64_t i, std::int64_t l) {
                    return a[static_cast<std::size_t>(i * k + l)];
                };
                const auto t_at = [&](std::int64_t i, std::int64_t l) {
                    return at[static_cast<std::size_t>(l * m + i)];
                };
                Tile<A> y(room(m), room(n));
                for (std::int64_t i = 0; i < room(m); ++i)
                    std::fill_n(y.row(i), room(n), std::numeric_limits<A>::quiet_NaN());
                tile_product<false>(y, 0, plain(left), right, 0, m, n, elements);
                expect_product(y, m, n, k, A{0}, a_at, b_at);
                Tile<A> tall(room(m), room(n));
                const auto expect_same = [&] {
                    for (std::int64_t i = 0; i < m; ++i)
                        ASSERT_TRUE(std::equal(y.row(i), y.row(i) + n, tall.row(i))) << "tall blocks, row " << i;
                };
                tile_product<false, tall_block>(tall, 0, plain(left), right, 0, m, n, elements);
                expect_same();
                for (std::int64_t i = 0; i < room(m); ++i) std::fill_n(y.row(i), room(n), A{3});
                tile_product<true>(y, 0, transposed(turned), right, 0, m, n, elements);
                expect_product(y, m, n, k, A{3}, t_at, b_at);
                for (std::int64_t i = 0; i < room(m); ++i) std::fill_n(tall.row(i), room(n), A{3});
                tile_product<true, tall_block>(tall, 0, transposed(turned), right, 0, m, n, elements);
                expect_same();
            }
}

}  // namespace
}  // namespace uipe::tensor::cpu
