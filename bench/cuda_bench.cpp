// The CUDA backend's ops on a GPU. Names carry the sizes: B sequences of T tokens, C width, F feed-forward width, H
// heads of D, V vocabulary, n elements. On the emulator sizes are tiny.
//   cuda/gemm         bf16, y = a b^T, random data: the roof of what computes, 2 M N K FLOPs
//   cuda/copy         by our kernel (copy_kernel) and by CUDA (copy_cuda): the roof of what waits for memory
//   cuda/attention    causal, bf16, by level. FLOPs: forward 4 D H a causal pair, backward 10 D H (five products, q k^T
//                     again among them), as those who publish figures of attention count; a step counts 8 for it
//   cuda/head         LM head, softmax and loss, forward and backward: 6 n V C FLOPs
//   others            bf16; bytes, each tensor read or written once, as in memory_bench.cpp. Operands are several times
//                     the cache (50 MB of an H100), so that each call finds them in memory
#include <numeric>

#include "autograd/ops.h"
#include "bench/cuda_measure.h"
#include "bench/data.h"
#include "tensor/allocator.h"
#include "tensor/cuda/attention/attention.h"

namespace uipe::bench {
namespace {

using autograd::Variable;
using tensor::DType;
using tensor::Tensor;
namespace attend = tensor::cuda::attend;

constexpr double GiB = 1024.0 * 1024.0 * 1024.0;

std::string sizes(const std::vector<std::pair<const char*, std::int64_t>>& list) {
    std::string text;
    for (const auto& [letter, size] : list) text += cat("/", letter, size);
    return text;
}

Tensor on_device(tensor::Shape shape, DType dtype) { return Tensor::empty(std::move(shape), dtype, cuda_device); }

// --- Roofs --------------------------------------------------------------------------------------------------------

void register_roofs() {
    const std::int64_t M = tiny ? 32 : 8192;
    register_on_device("gemm" + sizes({{"M", M}, {"N", M}, {"K", M}}), [M](benchmark::State& state) {
        const Tensor a = random_on_device({M, M}, DType::bf16, 0);
        const Tensor b = random_on_device({M, M}, DType::bf16, 1);
        const Tensor y = on_device({M, M}, DType::bf16);
        const double n = static_cast<double>(M);
        measure_on_device(state, {.flops = 2.0 * n * n * n}, [&] { tensor::matmul(y, a, false, b, true); });
    });
    const std::int64_t bytes = tiny ? 4096 : static_cast<std::int64_t>(GiB);
    for (const bool kernel : {false, true}) {
        const std::string name = (kernel ? "copy_kernel" : "copy_cuda") + sizes({{"n", bytes / 2}});
        register_on_device(name, [=](benchmark::State& state) {
            const Tensor x = random_on_device({bytes / 2}, DType::bf16, 0);
            const Tensor y = on_device({bytes / 2}, DType::bf16);
            measure_on_device(state, {.bytes = 2.0 * static_cast<double>(bytes)}, [&] {
                if (kernel)
                    tensor::copy(y, x);
                else
                    tensor::cuda::copy_within(y.raw(), x.raw(), y.nbytes());
            });
        });
    }
}

// --- Attention ----------------------------------------------------------------------------------------------------

constexpr std::int64_t H = tiny ? 2 : 32;
constexpr std::int64_t D = 128;

/// The level of attention while it lives.
struct AtLevel {
    explicit AtLevel(attend::Level level) { attend::set_level(level); }
    ~AtLevel() { attend::set_level(attend::Level::automatic); }
    AtLevel(const AtLevel&) = delete;
    AtLevel& operator=(const AtLevel&) = delete;
};

void attention(benchmark::State& state, attend::Level level, const std::vector<std::int64_t>& lengths, bool backward) {
    std::string lengths_text;  // for the peer, which gets the same rows
    for (const std::int64_t n : lengths) lengths_text += cat(lengths_text.empty() ? "" : " ", n);
    state.SetLabel(lengths_text);
    const AtLevel guard(level);
    const std::int64_t T = std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0});
    const auto operand = [&](std::uint64_t seed) { return random_on_device({T, H * D}, DType::bf16, seed); };
    const Tensor q = operand(0), k = operand(1), v = operand(2);
    const Tensor out = on_device({T, H * D}, DType::bf16);
    const Tensor lse = on_device({T, H}, DType::f32);
    const Tensor cu = offsets(lengths);
    const DeviceWork work = {.flops = (backward ? 10.0 : 4.0) * D * H * causal_pairs(lengths),
                             .tokens = static_cast<double>(T)};
    const auto forward = [&] { tensor::attention(out, lse, q, k, v, cu, cu, D); };
    if (!backward) {
        measure_on_device(state, work, forward);
    } else {
        forward();
        const Tensor dout = operand(3);
        const Tensor dq = on_device({T, H * D}, DType::bf16);
        const Tensor dk = on_device({T, H * D}, DType::bf16);
        const Tensor dv = on_device({T, H * D}, DType::bf16);
        measure_on_device(state, work, [&] {
            tensor::attention_backward(dq, dk, dv, dout, q, k, v, out, lse, cu, D, false, false, false);
        });
    }
}

void register_attention(const std::string& shape, const std::vector<std::int64_t>& lengths) {
    const std::int64_t longest = *std::max_element(lengths.begin(), lengths.end());
    for (const bool backward : {false, true})
        for (const attend::Level level : attend::levels) {
            if (level == attend::Level::naive && longest > 1024) continue;  // seconds a call
            if (!attend::takes(level, DType::bf16, D)) continue;
            const std::string name = cat("attention_", backward ? "backward" : "forward", "/", attend::name_of(level),
                                         shape, sizes({{"H", H}, {"D", D}}));
            register_on_device(name, [=](benchmark::State& state) { attention(state, level, lengths, backward); });
        }
}

/// One number of tokens, cut into ever longer sequences; and rows of question and answer as TOFU's.
void register_all_attention() {
    const std::int64_t tokens = tiny ? 32 : 16384;
    for (const std::int64_t T :
         tiny ? std::vector<std::int64_t>{16, 32} : std::vector<std::int64_t>{512, 1024, 2048, 4096, 8192})
        register_attention(sizes({{"B", tokens / T}, {"T", T}}),
                           std::vector<std::int64_t>(static_cast<std::size_t>(tokens / T), T));
    const std::int64_t B = tiny ? 2 : 64;
    register_attention(sizes({{"rows", B}}), qa_lengths(B));
}

// --- The head -----------------------------------------------------------------------------------------------------

void head(benchmark::State& state, std::int64_t T, std::int64_t V, std::int64_t C) {
    const Variable hidden = Variable::leaf(random_on_device({T, C}, DType::bf16, 0));
    const Variable w = Variable::parameter(random_on_device({V, C}, DType::bf16, 1, 0.02));
    const Tensor targets = Tensor::from(random_ids(T, V, 2));
    const Tensor dlogp = Tensor::full({T}, DType::f32, -1.0 / static_cast<double>(T), cuda_device);
    const double flops = 6.0 * static_cast<double>(T) * static_cast<double>(V) * static_cast<double>(C);
    const std::size_t before = tensor::memory_stats(cuda_device).in_use;
    tensor::reset_peak(cuda_device);
    measure_on_device(state, {.flops = flops, .tokens = static_cast<double>(T)}, [&] {
        hidden.clear_grad();
        w.clear_grad();
        autograd::backward(autograd::token_logprob(hidden, w, targets), dlogp);
    });
    // Gradients, and what comes and goes.
    state.counters["extra_MB"] = static_cast<double>(tensor::memory_stats(cuda_device).peak - before) / 1e6;
}

void register_head() {
    const std::int64_t T = tiny ? 8 : 8192, V = tiny ? 64 : 32000, C = tiny ? 32 : 4096;
    register_on_device("head" + sizes({{"T", T}, {"V", V}, {"C", C}}),
                       [=](benchmark::State& state) { head(state, T, V, C); });
}

// --- What waits for memory ----------------------------------------------------------------------------------------

constexpr std::int64_t T = tiny ? 8 : 16384;
constexpr std::int64_t C = tiny ? 256 : 4096;
constexpr std::int64_t F = tiny ? 512 : 11008;
constexpr std::int64_t weights = tiny ? 1000 : 100'000'000;

/// bf16 tensors read or written.
DeviceWork work_of(double tensors, std::int64_t elements) {
    return {.bytes = 2.0 * tensors * static_cast<double>(elements)};
}

void rmsnorm(benchmark::State& state, bool backward) {
    const Tensor x = random_on_device({T, C}, DType::bf16, 0);
    const Tensor w = random_on_device({C}, DType::bf16, 1);
    const Tensor y = on_device({T, C}, DType::bf16);
    const Tensor rstd = on_device({T}, DType::f32);
    const auto forward = [&] { tensor::rmsnorm(y, rstd, x, w, 1e-6); };
    if (!backward) return measure_on_device(state, work_of(2, T * C), forward);
    forward();
    const Tensor dw = Tensor::zeros({C}, DType::f32, cuda_device);
    const Tensor dx = on_device({T, C}, DType::bf16);
    measure_on_device(state, work_of(3, T * C), [&] { tensor::rmsnorm_backward(dx, dw, y, x, w, rstd, false); });
}

void swiglu(benchmark::State& state, bool backward) {
    const Tensor gate = random_on_device({T, F}, DType::bf16, 0);
    const Tensor up = random_on_device({T, F}, DType::bf16, 1);
    const Tensor y = random_on_device({T, F}, DType::bf16, 2);
    if (!backward) return measure_on_device(state, work_of(3, T * F), [&] { tensor::swiglu(y, gate, up); });
    const Tensor dgate = on_device({T, F}, DType::bf16);
    const Tensor dup = on_device({T, F}, DType::bf16);
    measure_on_device(state, work_of(5, T * F),
                      [&] { tensor::swiglu_backward(dgate, dup, y, gate, up, false, false); });
}

void rope(benchmark::State& state) {
    std::vector<std::int32_t> positions;
    for (std::int64_t t = 0; t < T; ++t) positions.push_back(static_cast<std::int32_t>(t % 2048));
    const Tensor where = Tensor::from(positions);
    const Tensor x = random_on_device({T, C}, DType::bf16, 0);
    const Tensor y = on_device({T, C}, DType::bf16);
    measure_on_device(state, work_of(2, T * C), [&] { tensor::rope(y, x, where, D, 10000.0, false); });
}

void add(benchmark::State& state) {
    const Tensor x = random_on_device({T, C}, DType::bf16, 0);
    const Tensor r = random_on_device({T, C}, DType::bf16, 1);
    const Tensor y = on_device({T, C}, DType::bf16);
    measure_on_device(state, work_of(3, T * C), [&] { tensor::add(y, x, r); });
}

/// A weight's bytes: 2 of its own and 2 of its rest, m and v read and written, the gradient read.
void adamw(benchmark::State& state, DType moments) {
    const Tensor w = random_on_device({weights}, DType::bf16, 0);
    const Tensor rest = Tensor::zeros({weights}, DType::bf16, cuda_device);
    const Tensor grad = random_on_device({weights}, DType::f32, 1);
    const Tensor m = Tensor::zeros({weights}, moments, cuda_device);
    const Tensor v = Tensor::zeros({weights}, moments, cuda_device);
    const double bytes = 12.0 + 4.0 * static_cast<double>(tensor::size_of(moments));
    measure_on_device(state, {.bytes = bytes * static_cast<double>(weights)},
                      [&] { tensor::adamw(w, rest, m, v, grad, {.lr = 1e-5, .weight_decay = 0.01}); });
}

void register_memory() {
    const std::string of_C = sizes({{"T", T}, {"C", C}});
    const std::string of_F = sizes({{"T", T}, {"F", F}});
    register_on_device("rmsnorm_forward" + of_C, [](benchmark::State& state) { rmsnorm(state, false); });
    register_on_device("rmsnorm_backward" + of_C, [](benchmark::State& state) { rmsnorm(state, true); });
    register_on_device("swiglu_forward" + of_F, [](benchmark::State& state) { swiglu(state, false); });
    register_on_device("swiglu_backward" + of_F, [](benchmark::State& state) { swiglu(state, true); });
    register_on_device("rope" + sizes({{"T", T}, {"C", C}, {"D", D}}), rope);
    register_on_device("add" + of_C, add);
    register_on_device("adamw" + sizes({{"n", weights}}), [](benchmark::State& state) { adamw(state, DType::f32); });
    register_on_device("adamw_bf16_moments" + sizes({{"n", weights}}),
                       [](benchmark::State& state) { adamw(state, DType::bf16); });
}

[[maybe_unused]] const bool registered = [] {
    register_roofs();
    register_all_attention();
    register_head();
    register_memory();
    return true;
}();

}  // namespace
}  // namespace uipe::bench
