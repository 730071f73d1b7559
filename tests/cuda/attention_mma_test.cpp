// Attention by tensor cores (levels 3 and 4) against the CPU in f64, element by element within what its roundings to
// bf16 may do.
#include <algorithm>
#include <array>

#include "tensor/cuda/attention/attention.h"
#include "tests/cuda/cuda_test.h"
#include "tests/tensor/attention_inputs.h"

#ifdef UIPE_EMULATED
#include "tensor/cuda/device/emulator.h"
#endif

namespace uipe::tensor::test {
namespace {

using cuda::attend::Level;

/// The largest norm of a row of D elements.
double largest_norm(const Tensor& x, std::int64_t D) {
    const std::vector<double> values = test::values(x);
    double most = 0.0;
    for (std::size_t at = 0; at < values.size(); at += static_cast<std::size_t>(D)) {
        double sum = 0.0;
        for (std::size_t d = at; d < at + static_cast<std::size_t>(D); ++d) sum += values[d] * values[d];
        most = std::max(most, std::sqrt(sum));
    }
    return most;
}

/// How far each element may lie from the exact one, before its own rounding to bf16.
///
/// The operands of every product are bf16, and products are summed in f32. Only two values in between are rounded to
/// bf16, each by a factor of at most 1 + u, u = 2^-8: a probability p before it meets v (dout, for dv), and the
/// gradient of a score, ds = p (dp - delta) with dp = dout v^T, before it meets k (q, for dk). So
///     |out error| <= u sum p |v|,  |dv error| <= u sum p |dout|,
///     |dq error| <= u scale sum |ds| |k|,  |dk error| <= u scale sum |ds| |q|.
/// What f32 loses: a score, of terms whose absolute sum is at most |q| |k| scale =: spread, is wrong by at most
/// D spread 2^-23 (twice a rounding: tensor cores may cut off), p by as much relative to p, and by n 2^-23 for its n
/// terms; dp and delta by D 2^-23 times the absolute sum of their terms. `f32` is the sum, doubled for exp2 and the
/// scaling around it: 2^-22 (D (spread + 1) + n).
struct Bounds {
    std::vector<double> out, dq, dk, dv;

    Bounds(const Inputs& in, const Tensor& output, const Tensor& lse)
        : out(static_cast<std::size_t>(in.q.numel())),
          dq(out.size()),
          dk(static_cast<std::size_t>(in.k.numel())),
          dv(dk.size()),
          q_(values(in.q)),
          k_(values(in.k)),
          v_(values(in.v)),
          dout_(values(in.dout)),
          output_(values(output)),
          lse_(values(lse)),
          D_(static_cast<std::size_t>(in.D)) {
        const auto cu = in.cu.to_vector<std::int32_t>();
        const auto cu_keys = in.cu_keys.to_vector<std::int32_t>();
        scale_ = 1.0 / std::sqrt(static_cast<double>(in.D));
        const double spread = largest_norm(in.q, in.D) * largest_norm(in.k, in.D) * scale_;
        for (std::size_t b = 0; b + 1 < cu.size(); ++b) {
            const std::int32_t n = cu_keys[b + 1] - cu_keys[b];
            f32_ = 0x1p-22 * (static_cast<double>(in.D) * (spread + 1.0) + n);
            for (std::int32_t i = cu[b]; i < cu[b + 1]; ++i)
                for (std::int32_t j = cu_keys[b]; j <= cu_keys[b + 1] - (cu[b + 1] - i); ++j)
                    for (std::int64_t h = 0; h < in.H; ++h)
                        add(static_cast<std::size_t>(i * in.H + h),
                            static_cast<std::size_t>(j * in.K + h / (in.H / in.K)));
        }
    }

private:
    static constexpr double u = 0x1p-8;

    /// One query and one key, rows of D.
    void add(std::size_t query, std::size_t key) {
        const double* q = &q_[query * D_];
        const double* k = &k_[key * D_];
        const double* v = &v_[key * D_];
        const double* dout = &dout_[query * D_];
        const double* o = &output_[query * D_];
        double score = 0.0;
        double dp_less_delta = 0.0;
        double terms = 0.0;
        for (std::size_t d = 0; d < D_; ++d) {
            score += q[d] * k[d];
            dp_less_delta += dout[d] * (v[d] - o[d]);
            terms += std::abs(dout[d] * v[d]) + std::abs(dout[d] * o[d]);
        }
        const double p = std::exp(score * scale_ - lse_[query]);
        const double ds = scale_ * p * (u * std::abs(dp_less_delta) + f32_ * terms);
        for (std::size_t d = 0; d < D_; ++d) {
            out[query * D_ + d] += (u + f32_) * p * std::abs(v[d]);
            dv[key * D_ + d] += (u + f32_) * p * std::abs(dout[d]);
            dq[query * D_ + d] += ds * std::abs(k[d]);
            dk[key * D_ + d] += ds * std::abs(q[d]);
        }
    }

    std::vector<double> q_, k_, v_, dout_, output_, lse_;
    std::size_t D_;
    double scale_ = 0.0;
    double f32_ = 0.0;
};

/// Within the bound and one rounding to bf16; 1 % in norm.
void expect_within(const Tensor& on_device, const Tensor& want, const std::vector<double>& bound,
                   const std::string& what) {
    ASSERT_EQ(on_device.shape(), want.shape()) << what;
    const std::vector<double> got = values(on_device.to(Device{}));
    const std::vector<double> expected = values(want);
    for (std::size_t i = 0; i < got.size(); ++i) {
        const double tolerance = bound[i] + 0x1p-8 * (std::abs(expected[i]) + bound[i]) + 0x1p-126;
        ASSERT_LE(std::abs(got[i] - expected[i]), tolerance)  // false for NaN
            << what << " element " << i << " of " << to_string(want.shape()) << ": got " << got[i] << ", want "
            << expected[i];
    }
    // The gradients of a lone token's query and key cancel to 0: nothing to be relative to.
    double most = 0.0;
    for (const double x : expected) most = std::max(most, std::abs(x));
    if (most > 1e-3) {
        EXPECT_LE(norm_error(on_device, want), 1e-2) << what;
    }
}

class CudaAttentionMma : public Cuda, public ::testing::WithParamInterface<Level> {
protected:
    void SetUp() override {
        Cuda::SetUp();
        if (IsSkipped()) return;
        if (!takes(64)) GTEST_SKIP() << "attention level " << name_of(GetParam()) << " is not for this device";
        cuda::attend::set_level(GetParam());
    }
    static bool takes(std::int64_t D) { return cuda::attend::takes(GetParam(), DType::bf16, D); }
    void TearDown() override { cuda::attend::set_level(Level::automatic); }

    struct Forward {
        Tensor out, lse;
    };
    Forward forward(const Inputs& in) const {
        Forward f{on(poisoned(in.q.shape(), DType::bf16)), on(poisoned({in.T, in.H}, DType::f32))};
        attention(f.out, f.lse, on(in.q), on(in.k), on(in.v), in.cu, in.cu_keys, in.D);
        return f;
    }

    /// Adds to dq, dk, dv in turn where asked.
    std::array<Tensor, 3> backward(const Inputs& in, const Forward& f, const std::array<Tensor, 3>& before,
                                   const std::array<bool, 3>& accumulate) const {
        const std::array<Tensor, 3> d{on(before[0]), on(before[1]), on(before[2])};
        attention_backward(d[0], d[1], d[2], on(in.dout), on(in.q), on(in.k), on(in.v), f.out, f.lse, in.cu, in.D,
                           accumulate[0], accumulate[1], accumulate[2]);
        return d;
    }

    /// Nothing for a head size that the level does not take.
    void check(const Layout& c, const std::array<bool, 3>& accumulate = {}) const {
        if (!takes(c.D)) return;
        SCOPED_TRACE(name(c));
        const Inputs in(c, DType::bf16);
        const Forward got = forward(in);
        const Tensor out = poisoned(in.q.shape(), DType::f64);
        const Tensor lse = poisoned({in.T, in.H}, DType::f64);
        attention(out, lse, wide(in.q), wide(in.k), wide(in.v), in.cu, in.cu_keys, in.D);
        // The backward pass is given what the device computed: its errors are its own.
        const Forward here{got.out.to(Device{}), got.lse.to(Device{})};
        const Bounds bounds(in, here.out, lse);
        expect_within(here.out, out, bounds.out, "out");
        expect_elements(here.lse, lse, 1.0);
        if (!c.queries.empty()) return;

        std::array<Tensor, 3> before;
        std::array<Tensor, 3> want;
        const Tensor like[] = {in.q, in.k, in.v};
        for (std::size_t i = 0; i < 3; ++i) {
            before[i] = output(like[i].shape(), DType::bf16, accumulate[i]);
            want[i] = wide(before[i]);
        }
        const std::array<Tensor, 3> gradients = backward(in, got, before, accumulate);
        attention_backward(want[0], want[1], want[2], wide(in.dout), wide(in.q), wide(in.k), wide(in.v), wide(here.out),
                           wide(here.lse), in.cu, in.D, accumulate[0], accumulate[1], accumulate[2]);
        expect_within(gradients[0], want[0], bounds.dq, "dq");
        expect_within(gradients[1], want[1], bounds.dk, "dk");
        expect_within(gradients[2], want[2], bounds.dv, "dv");
    }
};

INSTANTIATE_TEST_SUITE_P(Levels, CudaAttentionMma, ::testing::Values(Level::mma, Level::wgmma),
                         [](const auto& level) { return std::string(cuda::attend::name_of(level.param)); });

TEST_P(CudaAttentionMma, OneTokenAndOneHead) {
    for (const std::int64_t D : {16, 32, 48, 64, 96, 128}) {
        check({{1}, 1, 1, D});
        check({{1, 1, 0, 2}, 2, 1, D});
    }
    check({{0}, 2, 1, 64});
}

TEST_P(CudaAttentionMma, EveryHeadSize) {
    for (const std::int64_t D : {16, 32, 48, 64, 96, 128}) check({{33, 7, 66}, 2, 1, D});
}

TEST_P(CudaAttentionMma, TilesThatStartAndEndAnywhere) {
    check({{300, 1, 129, 0, 128, 31}, 1, 1, 64});
    check({{127, 150}, 1, 1, 128});
    check({{64, 63, 65, 16, 17, 191, 193}, 1, 1, 32});
    if (GetParam() == Level::wgmma) check({{63, 65, 193, 257}, 1, 1, 64});  // its warpgroups' 64 rows, its 128 keys
}

TEST_P(CudaAttentionMma, GroupsOfHeads) {
    check({{70, 5}, 6, 2, 64});
    check({{67}, 3, 1, 128});
    check({{9, 35}, 4, 4, 16});
}

TEST_P(CudaAttentionMma, QueriesOfTheLastKeysAlone) {
    check({{200, 0, 150, 97, 7}, 2, 1, 64, {1, 0, 87, 96, 7}});
    check({{300, 64}, 1, 1, 128, {130, 1}});
    check({{129, 128}, 3, 3, 48, {65, 127}});
}

TEST_P(CudaAttentionMma, GradientsAreAddedWhereAsked) {
    check({{20, 70}, 2, 1, 64}, {true, false, false});
    check({{20, 70}, 2, 1, 64}, {false, true, true});
    check({{35}, 1, 1, 128}, {true, true, true});
}

/// Scores so far apart that softmax is one key, and so large that only the running maximum keeps exp2 finite.
TEST_P(CudaAttentionMma, LargeScores) {
    Inputs in({{150}, 1, 1, 64}, DType::bf16);
    in.q = normal({in.T, in.D}, DType::bf16, 60.0);
    const Forward got = forward(in);
    const Tensor out = poisoned(in.q.shape(), DType::f64);
    const Tensor lse = poisoned({in.T, in.H}, DType::f64);
    attention(out, lse, wide(in.q), wide(in.k), wide(in.v), in.cu, in.cu_keys, in.D);
    expect_within(got.out, out, Bounds(in, out.to(DType::bf16), lse).out, "out");
    expect_elements(got.lse, lse, 1.0);
}

TEST_P(CudaAttentionMma, TwiceTheSameBits) {
    for (const std::int64_t D : {64, 128}) {
        const Inputs in({{5, 130}, 2, 1, D}, DType::bf16);
        const auto run = [&] {
            const Forward f = forward(in);
            const std::array<Tensor, 3> nothing{poisoned(in.q.shape(), DType::bf16),
                                                poisoned(in.k.shape(), DType::bf16),
                                                poisoned(in.v.shape(), DType::bf16)};
            const std::array<Tensor, 3> d = backward(in, f, nothing, {});
            return std::vector<Tensor>{f.out.to(Device{}), f.lse.to(Device{}), d[0].to(Device{}), d[1].to(Device{}),
                                       d[2].to(Device{})};
        };
        const auto expect_same = [](const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
            for (std::size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(same_bits(a[i], b[i])) << "result " << i;
        };
        const std::vector<Tensor> first = run();
        expect_same(first, run());
#ifdef UIPE_EMULATED
        const emulator::Options before = emulator::options();
        for (const auto order : {emulator::Order::forward, emulator::Order::reverse, emulator::Order::random})
            for (const bool late : {false, true})
                for (const std::uint8_t poison : {0xFF, 0x7F, 0x00}) {
                    SCOPED_TRACE(cat("order ", static_cast<int>(order), " late ", late, " poison ", int{poison}));
                    emulator::options() = {order, 7, late, poison};
                    expect_same(first, run());
                }
        emulator::options() = before;
#endif
    }
}

#ifdef UIPE_EMULATED
/// The counts say that tensor cores did the work, and that no row of a tile waited for another's bank.
TEST_P(CudaAttentionMma, ProductsAndBanks) {
    for (const std::int64_t D : {16, 32, 48, 64, 96, 128}) {
        if (!takes(D)) continue;
        SCOPED_TRACE(cat("D ", D));
        const Inputs in({{64}, 1, 1, D}, DType::bf16);
        // In blocks of 16 x 8 x 16.
        const auto products = [&](const auto& body) {
            const emulator::Statistics before = emulator::statistics();
            body();
            const emulator::Statistics& after = emulator::statistics();
            EXPECT_EQ(after.bank_conflicts, before.bank_conflicts);
            if (GetParam() == Level::mma) {
                EXPECT_GT(after.matrix_loads, before.matrix_loads);
                return after.matrix_products - before.matrix_products;
            }
            EXPECT_GT(after.boxes, before.boxes);
            EXPECT_EQ(after.matrix_products, before.matrix_products);
            return after.group_product_blocks - before.group_product_blocks;
        };
        // Products of 64 x 64 x D whole: 2 forward; 7 backward, less what the diagonal saves. Level 4 has keys by 128
        // forward.
        const std::uint64_t whole = static_cast<std::uint64_t>(64 * 64 * D / (16 * 8 * 16));
        Forward f;
        EXPECT_EQ(products([&] { f = forward(in); }), (GetParam() == Level::wgmma ? 4 : 2) * whole);
        const std::array<Tensor, 3> nothing{poisoned(in.q.shape(), DType::bf16), poisoned(in.k.shape(), DType::bf16),
                                            poisoned(in.v.shape(), DType::bf16)};
        const std::uint64_t back = products([&] { backward(in, f, nothing, {}); });
        EXPECT_GE(back, 5 * whole);
        EXPECT_LE(back, 7 * whole);
    }
}
#endif

}  // namespace
}  // namespace uipe::tensor::test
