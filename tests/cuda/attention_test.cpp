// Each level of attention, and decoding, on the device, against the CPU in f64.
#include "tensor/cuda/attention/attention.h"

#include <array>
#include <numeric>

#include "tests/cuda/cuda_test.h"
#include "tests/tensor/attention_inputs.h"

#ifdef UIPE_EMULATED
#include "tensor/cuda/device/emulator.h"
#endif

namespace uipe::tensor::test {
namespace {

using cuda::attend::Level;

const std::vector<Layout>& layouts() {
    static const std::vector<Layout> all{
        {{1}, 1, 1, 8},          {{1, 2, 33}, 1, 1, 10},     {{0, 65, 0, 31}, 2, 2, 8},
        {{40, 7, 97}, 4, 2, 40}, {{64, 32, 128}, 2, 2, 64},  {{300, 1, 129}, 4, 1, 64},
        {{63}, 4, 2, 128},       {{17, 170, 41}, 2, 1, 128}, {{}, 2, 1, 64},
    };
    return all;
}

const std::vector<Layout>& layouts_behind_a_prefix() {
    static const std::vector<Layout> all{
        {{1, 9}, 1, 1, 10, {1, 1}},
        {{70, 5, 33}, 4, 2, 40, {7, 1, 0}},
        {{65, 64, 130, 31}, 4, 1, 64, {33, 32, 64, 30}},
        {{200, 0, 97}, 2, 1, 128, {1, 0, 96}},
    };
    return all;
}

double largest(const std::vector<double>& x) {
    double most = 0.0;
    for (const double v : x) most = std::max(most, std::abs(v));
    return most;
}

/// f32: within 1e-5 of the largest, for inputs of size 1. In bf16 the result is rounded once, by at most unit(bf16) of
/// itself; mma and wgmma also round each weight of their sums to bf16, by as much of each term, and `terms` is what the
/// terms' sizes add up to.
void expect_close(const Tensor& on_device, const Tensor& want, Level level, const std::vector<double>& terms,
                  const std::string& what) {
    ASSERT_EQ(on_device.shape(), want.shape());
    const std::vector<double> got = values(on_device.to(Device{}));
    const std::vector<double> expected = values(want);
    const bool rounded = on_device.dtype() == DType::bf16;
    const double sums = 1e-5 * std::max(largest(expected), 1.0);  // terms of size 1 may cancel
    for (std::size_t i = 0; i < got.size(); ++i) {
        const double weights = level >= Level::mma ? unit(DType::bf16) * terms.at(i) : 0.0;
        const double result = rounded ? unit(DType::bf16) * (std::abs(expected[i]) + sums + weights) : 0.0;
        ASSERT_LE(std::abs(got[i] - expected[i]), sums + weights + result + std::numeric_limits<float>::min())
            << what << " element " << i << ": got " << got[i] << ", want " << expected[i];
    }
    // The gradient of a lone token's query cancels to 0: nothing to be relative to.
    if (largest(expected) > 1e-3) {
        EXPECT_LE(norm_error(on_device, want), 1e-2) << what;
    }
}

struct Outputs {
    Tensor out, lse;
};

/// On the device.
struct Operands {
    Tensor q, k, v, dout;
};

/// What the terms of each sum of the gradients add up to in size, from the formulas.
struct Terms {
    std::vector<double> dq, dk, dv;

    Terms(const Inputs& in, const Tensor& out_tensor, const Tensor& lse_tensor)
        : dq(static_cast<std::size_t>(in.q.numel())), dk(static_cast<std::size_t>(in.k.numel())), dv(dk.size()) {
        const auto q = values(in.q);
        const auto k = values(in.k);
        const auto v = values(in.v);
        const auto dout = values(in.dout);
        const auto out = values(out_tensor);
        const auto lse = values(lse_tensor);
        const auto cu = in.cu.to_vector<std::int32_t>();
        const auto D = static_cast<std::size_t>(in.D);
        const auto dot = [D](const double* a, const double* b) { return std::inner_product(a, a + D, b, 0.0); };
        const double scale = 1.0 / std::sqrt(static_cast<double>(D));
        const auto each = [&](std::size_t query, std::size_t key, double lse_here) {
            const double p = std::exp(scale * dot(&q[query], &k[key]) - lse_here);
            const double ds = std::abs(scale * p * (dot(&dout[query], &v[key]) - dot(&dout[query], &out[query])));
            for (std::size_t d = 0; d < D; ++d) {
                dq[query + d] += ds * std::abs(k[key + d]);
                dk[key + d] += ds * std::abs(q[query + d]);
                dv[key + d] += p * std::abs(dout[query + d]);
            }
        };
        const auto H = static_cast<std::size_t>(in.H);
        const auto K = static_cast<std::size_t>(in.K);
        for (std::size_t b = 0; b + 1 < cu.size(); ++b)
            for (auto i = static_cast<std::size_t>(cu[b]); i < static_cast<std::size_t>(cu[b + 1]); ++i)
                for (std::size_t h = 0; h < H; ++h)
                    for (auto j = static_cast<std::size_t>(cu[b]); j <= i; ++j)
                        each((i * H + h) * D, (j * K + h / (H / K)) * D, lse[i * H + h]);
    }
};

std::string level_name(const ::testing::TestParamInfo<std::tuple<Level, DType>>& info) {
    return cat(cuda::attend::name_of(std::get<0>(info.param)), "_", name_of(std::get<1>(info.param)));
}

class CudaAttention : public Cuda, public ::testing::WithParamInterface<std::tuple<Level, DType>> {
protected:
    Level level() const { return std::get<0>(GetParam()); }
    DType dtype() const { return std::get<1>(GetParam()); }
    bool takes(std::int64_t D) const { return cuda::attend::takes(level(), dtype(), D); }

    void SetUp() override {
        Cuda::SetUp();
        if (IsSkipped()) return;
        if (!takes(64)) GTEST_SKIP() << "attention level " << name_of(level()) << " does not take " << name_of(dtype());
        cuda::attend::set_level(level());
    }
    void TearDown() override { cuda::attend::set_level(Level::automatic); }

    Operands on_device(const Inputs& in) const { return {on(in.q), on(in.k), on(in.v), on(in.dout)}; }

    Outputs forward(const Inputs& in, const Operands& x) const {
        const Outputs y{on(poisoned(in.q.shape(), dtype())), on(poisoned({in.T, in.H}, DType::f32))};
        attention(y.out, y.lse, x.q, x.k, x.v, in.cu, in.cu_keys, in.D);
        return y;
    }

    void expect_forward(const Layout& s) const {
        SCOPED_TRACE(name(s));
        const Inputs in(s, dtype());
        const Outputs got = forward(in, on_device(in));
        const Tensor want = poisoned(in.q.shape(), DType::f64);
        const Tensor want_lse = poisoned({in.T, in.H}, DType::f64);
        attention(want, want_lse, wide(in.q), wide(in.k), wide(in.v), in.cu, in.cu_keys, in.D);
        // The same sums over values without a sign.
        std::vector<double> sizes = values(in.v);
        for (double& x : sizes) x = std::abs(x);
        const Tensor terms = poisoned(in.q.shape(), DType::f64);
        attention(terms, poisoned({in.T, in.H}, DType::f64), wide(in.q), wide(in.k), Tensor::from(sizes, in.v.shape()),
                  in.cu, in.cu_keys, in.D);
        expect_close(got.out, want, level(), values(terms), "out");
        expect_elements(got.lse, want_lse, 1.0);
    }

    /// dq, dk, dv on the device, from gradients that hold `before`.
    std::array<Tensor, 3> backward(const Inputs& in, const Operands& x, const Outputs& y,
                                   const std::array<Tensor, 3>& before, int flags) const {
        const std::array<Tensor, 3> d{on(before[0]), on(before[1]), on(before[2])};
        attention_backward(d[0], d[1], d[2], x.dout, x.q, x.k, x.v, y.out, y.lse, in.cu, in.D, (flags & 1) != 0,
                           (flags & 2) != 0, (flags & 4) != 0);
        return d;
    }

    void expect_backward(const Layout& s, int flags) const {
        SCOPED_TRACE(cat(name(s), " accumulate flags ", flags));
        const Inputs in(s, dtype());
        const Operands x = on_device(in);
        const Outputs y = forward(in, x);
        const Tensor out = y.out.to(Device{});  // as rounded: what remains is the op's own error
        const Tensor lse = y.lse.to(Device{});
        const std::array<Tensor, 3> before{output(in.q.shape(), dtype(), (flags & 1) != 0),
                                           output(in.k.shape(), dtype(), (flags & 2) != 0),
                                           output(in.v.shape(), dtype(), (flags & 4) != 0)};
        const std::array<Tensor, 3> got = backward(in, x, y, before, flags);
        const std::array<Tensor, 3> want{wide(before[0]), wide(before[1]), wide(before[2])};
        attention_backward(want[0], want[1], want[2], wide(in.dout), wide(in.q), wide(in.k), wide(in.v), wide(out),
                           wide(lse), in.cu, in.D, (flags & 1) != 0, (flags & 2) != 0, (flags & 4) != 0);
        const Terms terms(in, out, lse);
        expect_close(got[0], want[0], level(), terms.dq, "dq");
        expect_close(got[1], want[1], level(), terms.dk, "dk");
        expect_close(got[2], want[2], level(), terms.dv, "dv");
    }

    /// out, lse, dq, dk, dv of a whole pass, on the host.
    std::vector<Tensor> pass(const Inputs& in) const {
        const Operands x = on_device(in);
        const Outputs y = forward(in, x);
        const auto d = backward(
            in, x, y,
            {poisoned(in.q.shape(), dtype()), poisoned(in.k.shape(), dtype()), poisoned(in.v.shape(), dtype())}, 0);
        std::vector<Tensor> all;
        for (const Tensor& t : {y.out, y.lse, d[0], d[1], d[2]}) all.push_back(t.to(Device{}));
        return all;
    }
};

INSTANTIATE_TEST_SUITE_P(Levels, CudaAttention,
                         ::testing::Combine(::testing::ValuesIn(cuda::attend::levels),
                                            ::testing::Values(DType::f32, DType::bf16)),
                         level_name);

void expect_same(const std::vector<Tensor>& a, const std::vector<Tensor>& b, const std::string& what) {
    for (std::size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(same_bits(a[i], b[i])) << what << ": output " << i;
}

TEST_P(CudaAttention, ForwardIsTheCpusForEveryShape) {
    for (const Layout& s : layouts())
        if (takes(s.D)) expect_forward(s);
}

TEST_P(CudaAttention, ForwardOfTheLastQueriesSeesTheKeysBeforeThem) {
    for (const Layout& s : layouts_behind_a_prefix())
        if (takes(s.D)) expect_forward(s);
}

TEST_P(CudaAttention, BackwardIsTheCpusForEveryShapeOverwritingOrAdding) {
    int flags = 0;
    for (const Layout& s : layouts())
        if (takes(s.D)) expect_backward(s, flags++ % 8);
    for (flags = 0; flags < 8; ++flags) expect_backward({{40, 3}, 4, 2, 64}, flags);
}

TEST_P(CudaAttention, TwoPassesGiveTheSameBits) {
    const Inputs in({{100, 1, 70}, 4, 2, 64}, dtype());
    expect_same(pass(in), pass(in), "again");
}

TEST_P(CudaAttention, ASequenceHasTheSameBitsAloneAndAmongOthers) {
    const Inputs in({{40, 70, 9}, 4, 2, 64}, dtype());
    const std::vector<Tensor> all = pass(in);
    Inputs one({{70}, 4, 2, 64}, dtype());
    one.q = in.q.rows(40, 110);
    one.k = in.k.rows(40, 110);
    one.v = in.v.rows(40, 110);
    one.dout = in.dout.rows(40, 110);
    std::vector<Tensor> part;
    for (const Tensor& t : all) part.push_back(t.rows(40, 110));
    expect_same(pass(one), part, "alone");
}

TEST_P(CudaAttention, HugeScoresNeitherOverflowNorLoseTheWinner) {
    const std::int64_t T = 70;
    const std::int64_t D = 64;
    const Tensor cu = packed({static_cast<std::int32_t>(T)});
    const Tensor k = Tensor::full({T, D}, DType::f64, -64.0);
    fill(k.rows(3, 4), 64.0);  // every later query prefers it, by 1024
    const Tensor v = normal({T, D}, dtype());
    const Tensor out = on(poisoned({T, D}, dtype()));
    attention(out, on(poisoned({T, 1}, DType::f32)), on(Tensor::full({T, D}, dtype(), 1.0)), on(k.to(dtype())), on(v),
              cu, cu, D);
    for (std::int64_t t = 3; t < T; ++t)
        EXPECT_TRUE(same_bits(out.to(Device{}).rows(t, t + 1), v.rows(3, 4))) << "query " << t;
}

#ifdef UIPE_EMULATED
/// The emulator's options for a while.
class With {
public:
    explicit With(const emulator::Options& options) : before_(emulator::options()) { emulator::options() = options; }
    ~With() { emulator::options() = before_; }
    With(const With&) = delete;
    With& operator=(const With&) = delete;

private:
    emulator::Options before_;
};

const std::vector<emulator::Options>& emulations() {
    using emulator::Order;
    static const std::vector<emulator::Options> all{{Order::forward, 1, false, 0xFF},
                                                    {Order::reverse, 1, true, 0x7F},
                                                    {Order::random, 7, false, 0x00},
                                                    {Order::random, 8, true, 0xFF}};
    return all;
}

TEST_P(CudaAttention, AnyOrderAnyPoisonAndLateCopiesGiveTheSameBits) {
    for (const std::int64_t D : {40, 64, 128}) {
        if (!takes(D)) continue;
        const Inputs in({{70, 1, 33}, 2, 1, D}, dtype());
        std::vector<std::vector<Tensor>> passes;
        for (const emulator::Options& options : emulations()) {
            const With with(options);
            passes.push_back(pass(in));
        }
        for (std::size_t i = 1; i < passes.size(); ++i) expect_same(passes[0], passes[i], cat("D ", D, " options ", i));
    }
}
#endif

using CudaAttentionLevels = Cuda;

TEST_F(CudaAttentionLevels, ALevelThatDoesNotTakeTheHeadIsAnErrorWhenAskedForAndPassedOverElse) {
    const Inputs in({{5}, 1, 1, 10}, DType::f32);
    const auto run = [&] {
        attention(on(poisoned(in.q.shape(), DType::f32)), on(poisoned({5, 1}, DType::f32)), on(in.q), on(in.k),
                  on(in.v), in.cu, in.cu, in.D);
    };
    cuda::attend::set_level(Level::tiled);
    EXPECT_THROW(run(), InputError);
    cuda::attend::set_level(Level::automatic);
    EXPECT_NO_THROW(run());
}

/// What level 4 must pass before a GPU is given it unasked.
TEST_F(CudaAttentionLevels, WgmmaAgreesWithMma) {
    if (!cuda::attend::takes(Level::wgmma, DType::bf16, 64)) GTEST_SKIP() << "for sm_90 alone";
    EXPECT_TRUE(cuda::attend::wgmma_agrees());
}

TEST_F(CudaAttentionLevels, ListsOfTilesCoverEachRowOnceLongestFirst) {
    const std::vector<std::int32_t> lengths{0, 5, 64, 65, 200};
    const std::vector<std::int32_t> queries{0, 5, 1, 65, 70};
    const Tensor cu_queries = packed(queries);
    const Tensor cu_keys = packed(lengths);
    const cuda::attend::Batch batch{cu_queries, cu_keys};
    const auto list_of = [](const cuda::attend::Tiles& tiles) { return tiles.owner.to_vector<std::int32_t>(); };
    // By the keys that the last query of a tile sees: 200 (twice, in their order), 65, 64 (twice), 5.
    EXPECT_EQ(list_of(cuda::attend::query_tiles(batch, 64)),
              (std::vector<std::int32_t>{4, 64, 4, 0, 3, 64, 2, 0, 3, 0, 1, 0}));
    EXPECT_EQ(list_of(cuda::attend::key_tiles(batch, 64)),
              (std::vector<std::int32_t>{4, 0, 4, 64, 4, 128, 3, 0, 2, 0, 4, 192, 1, 0, 3, 64}));
    const auto again = cuda::attend::query_tiles(batch, 64);
    EXPECT_EQ(again.at, cuda::attend::query_tiles(batch, 64).at) << "made once";
}

// --- Decoding ------------------------------------------------------------------------------------------------------

class CudaDecode : public CudaFloats {
protected:
    static constexpr std::int64_t capacity = 600;

    struct Case {
        std::int64_t H, K, D;
    };
    /// Caches where what lies past the lengths is NaN: it must not be read, or not count.
    struct Caches {
        Tensor q, k, v;
        Caches(const Case& c, const std::vector<std::int32_t>& slot, const std::vector<std::int32_t>& length,
               DType dtype)
            : q(normal({static_cast<std::int64_t>(slot.size()), c.H * c.D}, dtype)),
              k(normal({4, capacity, c.K * c.D}, dtype)),
              v(normal({4, capacity, c.K * c.D}, dtype)) {
            for (const Tensor& cache : {k, v})
                for (std::size_t b = 0; b < slot.size(); ++b)
                    fill(cache.view({4 * capacity, c.K * c.D})
                             .rows(slot[b] * capacity + length[b], (slot[b] + 1) * capacity),
                         std::nan(""));
        }
    };
    Tensor decode(const Caches& x, const std::vector<std::int32_t>& slot, const std::vector<std::int32_t>& length,
                  std::int64_t D) const {
        const Tensor out = on(poisoned(x.q.shape(), GetParam()));
        attention_decode(out, on(x.q), on(x.k), on(x.v), Tensor::from(slot), Tensor::from(length), D);
        return out;
    }
};
UIPE_CUDA_FLOATS(CudaDecode);

TEST_P(CudaDecode, IsTheCpusForEveryLengthAndGroup) {
    // Within one chunk of 256 keys, and beyond.
    const std::vector<std::vector<std::int32_t>> lengths{{1, 255, 256}, {600, 257, 3}};
    const std::vector<std::int32_t> slot{3, 0, 2};
    for (const Case& c : {Case{1, 1, 8}, {2, 1, 10}, {4, 2, 40}, {4, 4, 64}, {6, 1, 128}, {3, 3, 33}, {1, 1, 136}})
        for (const auto& length : lengths) {
            SCOPED_TRACE(cat("H ", c.H, " K ", c.K, " D ", c.D));
            const Caches x(c, slot, length, GetParam());
            const Tensor got = decode(x, slot, length, c.D);
            const Tensor want = poisoned(x.q.shape(), DType::f64);
            attention_decode(want, wide(x.q), wide(x.k), wide(x.v), Tensor::from(slot), Tensor::from(length), c.D);
            expect_close(got, want, Level::naive, {}, "out");  // f32 throughout, rounded once
        }
}

TEST_P(CudaDecode, ARowHasTheSameBitsAloneAndBesideLongerOnes) {
    const std::vector<std::int32_t> slot{1, 2};
    const std::vector<std::int32_t> length{100, 600};
    const Caches x({4, 2, 64}, slot, length, GetParam());
    const Tensor both = decode(x, slot, length, 64).to(Device{});
    Caches first = x;
    first.q = x.q.rows(0, 1);
    EXPECT_TRUE(same_bits(decode(first, {1}, {100}, 64).to(Device{}), both.rows(0, 1)));
}

#ifdef UIPE_EMULATED
TEST_P(CudaDecode, AnyOrderAndPoisonGiveTheSameBits) {
    const std::vector<std::int32_t> slot{1, 2};
    const std::vector<std::int32_t> length{100, 600};
    const Caches x({4, 2, 40}, slot, length, GetParam());
    const Tensor want = decode(x, slot, length, 40).to(Device{});
    for (const emulator::Options& options : emulations()) {
        const With with(options);
        EXPECT_TRUE(same_bits(decode(x, slot, length, 40).to(Device{}), want));
    }
}
#endif

}  // namespace
}  // namespace uipe::tensor::test
