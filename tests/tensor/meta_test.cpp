// The meta device: shapes are checked, memory is counted as the CPU takes it, nothing is computed.
#include <functional>

#include "tensor/allocator.h"
#include "tensor/ops.h"
#include "tensor/packed_matrix.h"
#include "tensor/profile.h"
#include "tensor/readback.h"
#include "tensor/scoring_head.h"
#include "tests/tensor/reference.h"

namespace uipe::tensor::test {
namespace {

const Device planned = meta({});

class Threads {
public:
    explicit Threads(int n) : before_(num_threads()) { set_num_threads(n); }
    ~Threads() { set_num_threads(before_); }
    Threads(const Threads&) = delete;
    Threads& operator=(const Threads&) = delete;

private:
    int before_;
};

std::string error_of(const std::function<void()>& act) {
    try {
        act();
    } catch (const Error& e) {
        return e.what();
    }
    return "no error";
}

TEST(Meta, ATensorHasAShapeAndIsCountedButTakesNoMemory) {
    const MemoryStats before = memory_stats(planned);
    const std::size_t host = memory_stats().in_use;
    const Tensor x = Tensor::empty({std::int64_t{1} << 40, 16}, DType::bf16, planned);
    EXPECT_EQ(x.shape(), (Shape{std::int64_t{1} << 40, 16}));
    EXPECT_EQ(memory_stats(planned).in_use - before.in_use, std::size_t{1} << 45);
    EXPECT_EQ(memory_stats().in_use, host);
    EXPECT_NE(x.raw(), Tensor::empty({4}, DType::f32, planned).raw());
}

TEST(Meta, EveryDeviceHasItsPlan) {
    const Device gpu = meta({Device::Kind::cuda});
    EXPECT_EQ(stands_for(gpu), Device{Device::Kind::cuda});
    EXPECT_EQ(stands_for(planned), Device{});
    EXPECT_EQ(meta(gpu), gpu);
    const std::size_t before = memory_stats(planned).in_use;
    const Tensor x = Tensor::empty({100}, DType::f32, gpu);
    EXPECT_EQ(memory_stats(planned).in_use, before);
    EXPECT_STREQ(name_of(x.device()), "meta");
}

TEST(Meta, ElementsCannotBeReadWhereTheyAre) {
    const Tensor x = Tensor::empty({3}, DType::f32, planned);
    const std::string said = error_of([&] { x.data<float>(); });
    EXPECT_NE(said.find("f32 on meta"), std::string::npos) << said;
}

TEST(Meta, OnTheHostItIsZeros) {
    const Tensor x = Tensor::full({3}, DType::f32, 7.0, planned);
    EXPECT_EQ(x.to_vector<float>(), std::vector<float>(3));
    EXPECT_EQ(x.to(DType::f64).to(Device{}).to_vector<double>(), std::vector<double>(3));
    EXPECT_EQ(x.rows(1, 2).item(), 0.0);
    EXPECT_EQ(Readback(x.rows(0, 1)).item(), 0.0);
    EXPECT_TRUE(all_finite(x));
}

TEST(Meta, OpsCheckTheirOperands) {
    const Tensor x = Tensor::empty({4, 8}, DType::f32, planned);
    EXPECT_NE(error_of([&] { matmul(x, x, false, x, false); }).find("matmul"), std::string::npos);
    EXPECT_NE(error_of([&] {
                  add(x, x, Tensor::empty({4, 8}, DType::f32));
              }).find("operands on meta and on cpu"),
              std::string::npos);
    const Tensor tokens = Tensor::from(std::vector<std::int32_t>{0, 1, 2, 99});
    EXPECT_NE(error_of([&] {
                  embedding(x, Tensor::empty({5, 8}, DType::f32, planned), tokens);
              }).find("index 99"),
              std::string::npos);
}

TEST(Meta, WorkIsCounted) {
    const Tensor a = Tensor::empty({32, 64}, DType::bf16, planned);
    const Tensor b = Tensor::empty({128, 64}, DType::bf16, planned);
    const Tensor y = Tensor::empty({32, 128}, DType::bf16, planned);
    (void)take_profile();
    set_profiling(true, {.flops = 1e6, .bytes = 1e9});
    matmul(y, a, false, b, true);
    matmul(y, a, false, b, true);
    set_profiling(false);
    const FamilyTime found = take_profile()[static_cast<std::size_t>(Family::matmul)];
    EXPECT_EQ(found.calls, 2);
    EXPECT_EQ(found.work.flops, 2 * 2.0 * 32 * 64 * 128);
    EXPECT_EQ(found.work.bytes, 2 * 2.0 * (32 * 64 + 64 * 128 + 32 * 128));
    EXPECT_DOUBLE_EQ(found.least, found.work.flops / 1e6);
}

TEST(Meta, MemoryIsCountedByClassAndPlace) {
    reset_peak(planned);
    const std::size_t before = memory_stats(planned).in_use;
    const auto of = [](const MemoryByClass& bytes, MemoryClass c) { return bytes[static_cast<std::size_t>(c)]; };
    const MemoryStats start = memory_stats(planned);
    Tensor weight;
    Tensor moment;
    {
        const MemoryScope outer(MemoryClass::weights);
        weight = Tensor::empty({1 << 20}, DType::f32, planned);
        const MemoryScope inner(MemoryClass::moments);
        moment = Tensor::empty({1 << 18}, DType::f32, planned);
    }
    {
        const Range range("outer");
        const Range place("inner");
        Tensor::empty({1 << 16}, DType::f32, planned);
    }
    weight = Tensor();
    const MemoryStats now = memory_stats(planned);
    EXPECT_EQ(now.peak - before, std::size_t{4} * ((1 << 20) + (1 << 18) + (1 << 16)));
    EXPECT_EQ(now.place_of_peak, "outer, inner");
    EXPECT_EQ(of(now.at_peak, MemoryClass::weights) - of(start.by_class, MemoryClass::weights), std::size_t{4} << 20);
    EXPECT_EQ(of(now.at_peak, MemoryClass::moments) - of(start.by_class, MemoryClass::moments), std::size_t{4} << 18);
    EXPECT_EQ(of(now.at_peak, MemoryClass::activations) - of(start.by_class, MemoryClass::activations),
              std::size_t{4} << 16);
    EXPECT_EQ(of(now.by_class, MemoryClass::weights), of(start.by_class, MemoryClass::weights));
    EXPECT_EQ(std::accumulate(now.at_peak.begin(), now.at_peak.end(), std::size_t{0}), now.peak);
}

TEST(Meta, APlanForTheCpuCountsIndexTensorsToo) {
    const std::size_t before = memory_stats(planned).in_use;
    Tensor index;
    {
        const HostInPlan scope;
        index = Tensor::from(std::vector<std::int32_t>(1024));
    }
    EXPECT_EQ(memory_stats(planned).in_use - before, 4096U);
    EXPECT_EQ(index.data<std::int32_t>()[1023], 0);
    index = Tensor::from(std::vector<std::int32_t>(1024));
    EXPECT_EQ(memory_stats(planned).in_use, before);
}

/// What `run` takes for itself at most, beyond the tensors that it is given. `run` makes those by make(shape).
struct Case {
    std::string name;
    std::function<void(DType, Device)> run;
};

std::size_t taken(const Case& c, DType dtype, Device device) {
    const std::size_t before = memory_stats(device).in_use;
    reset_peak(device);
    c.run(dtype, device);
    return memory_stats(device).peak - before;
}

Tensor zeros(Shape shape, DType dtype, Device device) { return Tensor::zeros(std::move(shape), dtype, device); }

Tensor cu_of(std::initializer_list<std::int32_t> ends) { return Tensor::from(std::vector<std::int32_t>(ends)); }

/// Targets of T rows of which every `step`-th counts.
Tensor targets_of(std::int64_t T, std::int64_t step) {
    std::vector<std::int32_t> targets(static_cast<std::size_t>(T), -1);
    for (std::size_t t = 0; t < targets.size(); t += static_cast<std::size_t>(step)) targets[t] = 1;
    return Tensor::from(targets);
}

void product(std::int64_t M, std::int64_t K, std::int64_t N, bool ta, bool tb, DType dtype, DType out, Device device) {
    matmul(zeros({M, N}, out, device), zeros(ta ? Shape{K, M} : Shape{M, K}, dtype, device), ta,
           zeros(tb ? Shape{N, K} : Shape{K, N}, dtype, device), tb);
}

void logprob(std::int64_t T, std::int64_t V, std::int64_t step, bool keeps, DType dtype, Device device) {
    const std::int64_t C = 24;
    const DType acc = accumulator_of(dtype);
    const Tensor hidden = zeros({T, C}, dtype, device);
    const Tensor w = zeros({V, C}, dtype, device);
    const Tensor targets = targets_of(T, step);
    const Tensor kept = keeps ? zeros({num_targets(targets), V}, dtype, device) : Tensor();
    const Tensor logp = zeros({T}, acc, device);
    token_logprob(logp, hidden, w, targets, {}, kept);
    token_logprob_backward(zeros({T, C}, dtype, device), zeros({V, C}, acc, device), logp, hidden, w, targets, false,
                           kept);
}

void divergence(std::int64_t T, std::int64_t V, std::int64_t step, bool keeps, DType dtype, Device device) {
    const std::int64_t C = 24;
    const DType acc = accumulator_of(dtype);
    const Tensor hidden = zeros({T, C}, dtype, device);
    const Tensor w = zeros({V, C}, dtype, device);
    std::vector<std::int32_t> marks(static_cast<std::size_t>(T));
    for (std::size_t t = 0; t < marks.size(); t += static_cast<std::size_t>(step)) marks[t] = 1;
    const Tensor mask = step == 1 ? Tensor() : Tensor::from(marks);
    const Tensor kept = keeps ? zeros({num_taken(mask, T), V}, dtype, device) : Tensor();
    const Tensor kl = zeros({T}, acc, device);
    token_kl(kl, hidden, w, hidden, w, mask, kept);
    token_kl_backward(zeros({T, C}, dtype, device), zeros({V, C}, acc, device), kl, hidden, w, hidden, w, mask, false,
                      kept);
}

void soft_labels(std::int64_t T, std::int64_t V, std::int64_t step, bool keeps, DType dtype, Device device) {
    const std::int64_t C = 24;
    const DType acc = accumulator_of(dtype);
    const Tensor hidden = zeros({T, C}, dtype, device);
    const Tensor w = zeros({V, C}, dtype, device);
    const Tensor targets = targets_of(T, step);
    const Tensor kept = keeps ? zeros({num_targets(targets), V}, dtype, device) : Tensor();
    const Tensor ce = zeros({T}, acc, device);
    token_cross_entropy(ce, hidden, w, hidden, w, targets, 1.0, kept);
    token_cross_entropy_backward(zeros({T, C}, dtype, device), zeros({V, C}, acc, device), ce, hidden, w, hidden, w,
                                 targets, 1.0, false, kept);
    token_cross_entropy(ce, hidden, w, {}, {}, targets, 1.0, kept);
    token_cross_entropy_backward(zeros({T, C}, dtype, device), zeros({V, C}, acc, device), ce, hidden, w, {}, {},
                                 targets, 1.0, false, kept);
}

void attend(std::int64_t H, std::int64_t K, std::int64_t D, DType dtype, Device device) {
    const Tensor cu = cu_of({0, 70, 71, 300});
    const Tensor q = zeros({300, H * D}, dtype, device);
    const Tensor k = zeros({300, K * D}, dtype, device);
    const Tensor lse = zeros({300, H}, accumulator_of(dtype), device);
    attention(q.clone(), lse, q, k, k, cu, cu, D);
    attention_backward(q.clone(), k.clone(), k.clone(), q, q, k, k, q, lse, cu, D, false, false, false);
}

void norm(std::int64_t T, std::int64_t C, DType dtype, Device device) {
    const DType acc = accumulator_of(dtype);
    const Tensor x = zeros({T, C}, dtype, device);
    const Tensor w = zeros({C}, dtype, device);
    const Tensor rstd = zeros({T}, acc, device);
    rmsnorm(zeros({T, C}, dtype, device), rstd, x, w, 1e-5);
    rmsnorm_backward(zeros({T, C}, dtype, device), zeros({C}, acc, device), x, x, w, rstd, false);
}

std::vector<Case> cases() {
    std::vector<Case> out;
    for (const std::int64_t M : {1, 2, 7, 600, 1500})
        for (const bool ta : {false, true})
            for (const bool tb : {false, true}) {
                const auto add = [&](std::int64_t K, std::int64_t N) {
                    out.push_back({cat("product ", M, "x", K, "x", N, ta ? " a^T" : "", tb ? " b^T" : ""),
                                   [=](DType t, Device d) { product(M, K, N, ta, tb, t, t, d); }});
                    out.push_back({cat("product into sums ", M, "x", K, "x", N, ta ? " a^T" : "", tb ? " b^T" : ""),
                                   [=](DType t, Device d) { product(M, K, N, ta, tb, t, accumulator_of(t), d); }});
                };
                add(130, 77);
                add(1100, 3900);  // several slices
            }
    for (const std::int64_t step : {1, 3})
        for (const bool keeps : {false, true}) {
            const std::string how = cat(" of every ", step, keeps ? ", kept" : "");
            for (const std::int64_t V : {50, 100000})  // 100000: chunks of 128 rows
                out.push_back(
                    {cat("logprob ", V, how), [=](DType t, Device d) { logprob(300, V, step, keeps, t, d); }});
            out.push_back({cat("kl", how), [=](DType t, Device d) { divergence(300, 100000, step, keeps, t, d); }});
            out.push_back(
                {cat("cross entropy", how), [=](DType t, Device d) { soft_labels(300, 100000, step, keeps, t, d); }});
        }
    for (const std::int64_t K : {1, 2, 6})
        for (const std::int64_t D : {5, 64})
            out.push_back({cat("attention ", K, " ", D), [=](DType t, Device d) { attend(6, K, D, t, d); }});
    for (const std::int64_t T : {1, 64, 333})
        out.push_back({cat("norm ", T), [=](DType t, Device d) { norm(T, 100, t, d); }});
    out.push_back({"sum backward", [](DType t, Device d) {
                       const Tensor x = zeros({5000}, t, d);
                       sum_backward(x, zeros({1}, t, d), true);
                   }});
    out.push_back({"squared distance", [](DType t, Device d) {
                       const Tensor x = zeros({50, 300}, t, d);
                       const Tensor y = zeros({50}, accumulator_of(t), d);
                       squared_distance(y, x, x);
                       squared_distance_backward(zeros({50, 300}, t, d), y, x, x, true);
                       probability_weights(y, y, 1.0, 2.0);
                   }});
    out.push_back({"argmax", [](DType t, Device d) {
                       argmax(Tensor::empty({100}, DType::i32), zeros({100, 500}, t, d));
                   }});
    out.push_back(
        {"scoring head", [](DType t, Device d) {
             const Tensor w = zeros({2500, 32}, t, d);
             for (const bool packs : {false, true})
                 (void)ScoringHead(w, packs).logprob(zeros({700, 32}, t, d), targets_of(700, 1)).to_vector<float>();
         }});
    return out;
}

TEST(Meta, OpsTakeTheMemoryThatTheyTakeOnTheCpu) {
    const Threads one(1);
    for (const Case& c : cases())
        for (const DType dtype : {DType::f32, DType::bf16}) {
            const std::size_t real = taken(c, dtype, {});
            std::size_t plan = 0;
            {
                const HostInPlan scope;
                plan = taken(c, dtype, planned);
            }
            // A scalar that is brought to the host is there already on the CPU.
            EXPECT_NEAR(static_cast<double>(plan), static_cast<double>(real), 4096) << c.name << " " << name_of(dtype);
        }
}

TEST(Meta, SeveralThreadsTakeWorkspacesSideBySide) {
    const Case c{"attention", [](DType t, Device d) { attend(6, 2, 64, t, d); }};
    std::size_t alone = 0;
    {
        const Threads one(1);
        alone = taken(c, DType::f32, planned);
    }
    const Threads two(2);
    const std::size_t plan = taken(c, DType::f32, planned);
    EXPECT_GT(plan, alone + 100000);
    EXPECT_LE(taken(c, DType::f32, {}), plan + 4096);
}

}  // namespace
}  // namespace uipe::tensor::test
