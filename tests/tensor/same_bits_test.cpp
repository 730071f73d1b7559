// Every op of ops.h gives the same bits on every run and for any number of threads: in f32 and bf16, odd sizes and
// sizes large enough to be split, overwriting and accumulating.
#include "tests/tensor/same_bits.h"

#include "tensor/master.h"
#include "tests/tensor/reference.h"

namespace uipe::tensor::test {
namespace {

constexpr DType low_types[] = {DType::f32, DType::bf16};

/// The rows and columns that ops over [T,C] are tried with.
struct Size {
    std::int64_t T, C;
};
constexpr Size shapes[] = {{1, 1}, {7, 21}, {1021, 769}};

std::string name_for(const char* op, DType dtype, const Size& s, bool accumulate = false) {
    return cat(op, " ", name_of(dtype), " ", s.T, "x", s.C, accumulate ? " accumulated" : "");
}

TEST(SameBits, ElementByElementAndSums) {
    expect_same_bits([](const Take& take) {
        for (const DType dtype : low_types)
            for (const Size& s : shapes) {
                const Tensor a = noise({s.T, s.C}, dtype, 1);
                const Tensor b = noise({s.T, s.C}, dtype, 2);
                const Tensor wide = noise({s.T, s.C}, DType::f32, 3);
                const auto fresh = [&] { return noise({s.T, s.C}, dtype, 4); };
                const auto run = [&](const char* op, const auto& act, bool accumulate = false) {
                    const Tensor y = fresh();
                    act(y);
                    take(name_for(op, dtype, s, accumulate), {y});
                };
                run("fill", [](const Tensor& y) { fill(y, 0.3); });
                run("copy", [&](const Tensor& y) { copy(y, wide); });
                run("axpby", [&](const Tensor& y) { axpby(y, 0.7, wide, 0.1); });
                run("add", [&](const Tensor& y) { add(y, a, b); });
                run("log_sigmoid", [&](const Tensor& y) { log_sigmoid(y, a); });
                run("extrapolate", [&](const Tensor& y) { extrapolate(y, a, b, 0.3); });
                run("fill_normal", [](const Tensor& y) { fill_normal(y, 0.02, 5, 6); });
                for (const bool accumulate : {false, true}) {
                    run(
                        "mul", [&](const Tensor& y) { mul(y, a, b, accumulate); }, accumulate);
                    run(
                        "log_sigmoid_backward", [&](const Tensor& y) { log_sigmoid_backward(y, a, b, accumulate); },
                        accumulate);
                }
                const Tensor total = Tensor::zeros({1}, dtype);
                sum(total, a);
                take(name_for("sum", dtype, s), {total});
                take(name_for("sum_of_squares", dtype, s),
                     {Tensor::from(std::vector<double>{sum_of_squares(a), all_finite(a) ? 1.0 : 0.0})});
            }
    });
}

TEST(SameBits, SegmentSums) {
    expect_same_bits([](const Take& take) {
        for (const DType dtype : low_types) {
            std::vector<std::int32_t> lengths;
            for (int b = 0; b < 999; ++b) lengths.push_back(1 + b * b % 301);
            const Tensor cu = packed(lengths);
            const std::int64_t T = cu.data<std::int32_t>()[lengths.size()];
            const Tensor y = Tensor::zeros({999}, dtype);
            segment_sum(y, noise({T}, dtype, 1), cu);
            take(cat("segment_sum ", name_of(dtype)), {y});
            for (const bool accumulate : {false, true}) {
                const Tensor dx = noise({T}, dtype, 2);
                segment_sum_backward(dx, y, cu, accumulate);
                take(cat("segment_sum_backward ", name_of(dtype), accumulate ? " accumulated" : ""), {dx});
            }
        }
    });
}

TEST(SameBits, Layers) {
    expect_same_bits([](const Take& take) {
        for (const DType dtype : low_types)
            for (const Size& s : shapes) {
                const Tensor x = noise({s.T, s.C}, dtype, 1);
                const Tensor up = noise({s.T, s.C}, dtype, 2);
                const Tensor dy = noise({s.T, s.C}, dtype, 3);
                const Tensor w = noise({s.C}, dtype, 4);
                const Tensor y = noise({s.T, s.C}, dtype, 5);
                const Tensor rstd = Tensor::zeros({s.T}, DType::f32);
                rmsnorm(y, rstd, x, w, 1e-5);
                take(name_for("rmsnorm", dtype, s), {y, rstd});
                const Tensor h = noise({s.T, s.C}, dtype, 12);
                add_rmsnorm(h, y, rstd, x, up, w, 1e-5);
                take(name_for("add_rmsnorm", dtype, s), {h, y, rstd});
                swiglu(y, x, up);
                take(name_for("swiglu", dtype, s), {y});
                const Tensor tokens = noisy_indices(s.T, 97);
                embedding(y, noise({97, s.C}, dtype, 6), tokens);
                take(name_for("embedding", dtype, s), {y});
                const Tensor dtable = noise({97, s.C}, DType::f32, 7);
                embedding_backward(dtable, dy, tokens);
                take(name_for("embedding_backward", dtype, s), {dtable});
                for (const bool accumulate : {false, true}) {
                    const Tensor dx = noise({s.T, s.C}, dtype, 8);
                    const Tensor dw = noise({s.C}, DType::f32, 9);
                    rmsnorm_backward(dx, dw, dy, x, w, rstd, accumulate);
                    take(name_for("rmsnorm_backward", dtype, s, accumulate), {dx, dw});
                    const Tensor dgate = noise({s.T, s.C}, dtype, 10);
                    const Tensor dup = noise({s.T, s.C}, dtype, 11);
                    swiglu_backward(dgate, dup, dy, x, up, accumulate, accumulate);
                    take(name_for("swiglu_backward", dtype, s, accumulate), {dgate, dup});
                }
            }
    });
}

TEST(SameBits, Rope) {
    expect_same_bits([](const Take& take) {
        for (const DType dtype : low_types)
            for (const std::int64_t D : {2, 18, 64})
                for (const bool inverse : {false, true})
                    for (const bool accumulate : {false, true}) {
                        const Tensor y = noise({1021, 5 * D}, dtype, 1);
                        rope(y, noise({1021, 5 * D}, dtype, 2), noisy_indices(1021, 2000), D, 1e4, inverse, accumulate);
                        take(cat("rope ", name_of(dtype), " D ", D, inverse ? " back" : "", accumulate ? " added" : ""),
                             {y});
                    }
    });
}

TEST(SameBits, Attention) {
    constexpr std::int64_t H = 6;
    constexpr std::int64_t K = 2;
    const Tensor cu = packed({1, 7, 130, 513, 68});
    const Tensor cu_last = packed({1, 3, 65, 70, 1});  // the last queries of each sequence
    expect_same_bits([&](const Take& take) {
        for (const DType dtype : low_types)
            for (const std::int64_t D : {2, 18, 64}) {
                const Tensor q = noise({719, H * D}, dtype, 1);
                const Tensor k = noise({719, K * D}, dtype, 2);
                const Tensor v = noise({719, K * D}, dtype, 3);
                const Tensor out = noise({719, H * D}, dtype, 4);
                const Tensor lse = Tensor::zeros({719, H}, DType::f32);
                attention(out, lse, q, k, v, cu, cu, D);
                take(cat("attention ", name_of(dtype), " D ", D), {out, lse});
                for (const bool accumulate : {false, true}) {
                    const Tensor dq = noise({719, H * D}, dtype, 5);
                    const Tensor dk = noise({719, K * D}, dtype, 6);
                    const Tensor dv = noise({719, K * D}, dtype, 7);
                    attention_backward(dq, dk, dv, noise({719, H * D}, dtype, 8), q, k, v, out, lse, cu, D, accumulate,
                                       accumulate, accumulate);
                    take(cat("attention_backward ", name_of(dtype), " D ", D, accumulate ? " accumulated" : ""),
                         {dq, dk, dv});
                }
                const Tensor last = noise({140, H * D}, dtype, 9);
                const Tensor last_lse = Tensor::zeros({140, H}, DType::f32);
                attention(last, last_lse, q.rows(0, 140), k, v, cu_last, cu, D);
                take(cat("attention of last queries ", name_of(dtype), " D ", D), {last, last_lse});
            }
    });
}

TEST(SameBits, Decoding) {
    constexpr std::int64_t H = 6;
    constexpr std::int64_t K = 2;
    constexpr std::int64_t D = 18;
    expect_same_bits([](const Take& take) {
        for (const DType dtype : low_types) {
            const Tensor keys = noise({16, 300, K * D}, dtype, 1);
            const Tensor slots = Tensor::from(std::vector<std::int32_t>{3, 0, 15, 8, 1, 7, 12});
            const Tensor lengths = Tensor::from(std::vector<std::int32_t>{1, 300, 17, 64, 255, 128, 299});
            const Tensor positions = Tensor::from(std::vector<std::int32_t>{0, 299, 16, 63, 254, 127, 298});
            cache_write(keys, noise({7, K * D}, dtype, 3), slots, positions);
            take(cat("cache_write ", name_of(dtype)), {keys});
            const Tensor out = noise({7, H * D}, dtype, 4);
            attention_decode(out, noise({7, H * D}, dtype, 5), keys, noise({16, 300, K * D}, dtype, 2), slots, lengths,
                             D);
            take(cat("attention_decode ", name_of(dtype)), {out});
        }
    });
}

TEST(SameBits, AdamW) {
    expect_same_bits([](const Take& take) {
        for (const DType dtype : low_types)
            for (const Size& s : shapes) {
                const Tensor squares = Tensor::full({1}, DType::f64, 1.0);
                const Tensor masters = noise({s.T, s.C}, DType::f32, 1);
                const Tensor w = masters.to(dtype);
                const Tensor rest = dtype == DType::f32 ? Tensor() : rest_of(masters, w);
                const Tensor m = noise({s.T, s.C}, DType::f32, 2);
                const Tensor v = noise({s.T, s.C}, DType::f32, 3);
                mul(v, v, v);
                adamw(w, rest, m, v, noise({s.T, s.C}, DType::f32, 4),
                      {.weight_decay = 0.1, .step = 3, .squares = squares, .max_norm = 0.7});
                take(name_for("adamw", dtype, s), {w, masters_of(w, rest), m, v});
                const Tensor m16 = m.to(DType::bf16);
                const Tensor v16 = v.to(DType::bf16);
                adamw(w, rest, m16, v16, noise({s.T, s.C}, DType::f32, 5), {.step = 4, .seed = 1, .stream = 2});
                take(name_for("adamw, moments of bf16", dtype, s), {w, masters_of(w, rest), m16, v16});
            }
    });
}

}  // namespace
}  // namespace uipe::tensor::test
