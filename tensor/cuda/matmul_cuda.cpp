// Matrix products on a GPU: cuBLASLt, with a plan kept for each shape.
//
// cuBLASLt counts rows within columns; our rows of N are its columns of N. So y[M,N] = op(a) op(b) is, to it,
// y^T[N,M] = op(b)^T op(a)^T: the operands change places, each is read as it lies, and a transpose stays a transpose.
//
// The algorithm is the library's own first choice, which depends on the shape, the chip and the library alone: a run
// has the same bits every time. UIPE_MATMUL=measured tries its candidates instead, once for each class of large
// products (those within a quarter of one another in every size): as fast as can be, but another run may choose another
// algorithm, and so other last bits. Sums are f32: products of f32 too, unless UIPE_TF32=1 lets their factors be
// rounded to 10 bits for speed.
#if !defined(UIPE_EMULATED)

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "tensor/cuda/cublas.h"
#include "tensor/cuda/cuda.h"

namespace uipe::tensor::cuda {
namespace {

void check(cublasStatus_t status, const char* what) {
    require(status == CUBLAS_STATUS_SUCCESS, what, ": ", cublas().status_name(status));
}

constexpr std::size_t workspace_bytes = std::size_t{32} << 20;

/// One for all products, for they run in order on one stream; never given back, so nothing of it runs at exit.
void* workspace() {
    static void* const block = take_memory(workspace_bytes);
    return block;
}

/// A variable of the environment that is unset, or one of two words; whether it is the second.
bool chosen(const char* variable, const std::string& usual, const std::string& other) {
    const char* text = std::getenv(variable);
    const std::string value = text == nullptr || *text == '\0' ? usual : text;
    require_input(value == usual || value == other, variable, "=", value, ": it may be ", usual, " or ", other);
    return value == other;
}
bool takes_first() {
    static const bool answer = !chosen("UIPE_MATMUL", "first", "measured");
    return answer;
}
bool takes_tf32() {
    static const bool answer = chosen("UIPE_TF32", "0", "1");
    return answer;
}

/// The largest power of two, 256 at most, that divides an address.
std::uint32_t alignment_of(const Tensor& t) {
    const auto address = reinterpret_cast<std::uintptr_t>(t.raw()) | 256U;
    return static_cast<std::uint32_t>(address & -address);
}

/// y[m,n] (+)= op(a) op(b), as in ops.h; n, m and k are those of op(a)[m,k] and op(b)[k,n].
struct Problem {
    std::int64_t m, n, k;
    bool transpose_a, transpose_b, accumulate;
    DType in, out;
    std::uint32_t align_a, align_b, align_y;

    auto key() const {
        return std::tie(m, n, k, transpose_a, transpose_b, accumulate, in, out, align_a, align_b, align_y);
    }
    bool operator<(const Problem& other) const { return key() < other.key(); }
    double flops() const { return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k); }
};

/// The problem that stands for its class: every size rounded up to one of four steps between powers of two.
Problem class_of(Problem p) {
    for (std::int64_t* size : {&p.m, &p.n, &p.k}) {
        const auto step = static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(*size)) / 4);
        if (step > 0) *size = ceil_div(*size, step) * step;
    }
    return p;
}

using Layout = std::unique_ptr<std::remove_pointer_t<cublasLtMatrixLayout_t>, decltype(&::cublasLtMatrixLayoutDestroy)>;
using Operation = std::unique_ptr<std::remove_pointer_t<cublasLtMatmulDesc_t>, decltype(&::cublasLtMatmulDescDestroy)>;
using Preference =
    std::unique_ptr<std::remove_pointer_t<cublasLtMatmulPreference_t>, decltype(&::cublasLtMatmulPreferenceDestroy)>;

/// Our rows of `columns` elements, which are the library's columns.
Layout make_layout(DType dtype, std::int64_t rows, std::int64_t columns) {
    cublasLtMatrixLayout_t layout = nullptr;
    check(cublas().layout_create(&layout, dtype == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F,
                                 static_cast<std::uint64_t>(columns), static_cast<std::uint64_t>(rows), columns),
          "cublasLtMatrixLayoutCreate");
    return {layout, cublas().layout_destroy};
}

template <class T>
void set(const Operation& operation, cublasLtMatmulDescAttributes_t attribute, T value) {
    check(cublas().desc_set(operation.get(), attribute, &value, sizeof value), "cublasLtMatmulDescSetAttribute");
}
template <class T>
void set(const Preference& preference, cublasLtMatmulPreferenceAttributes_t attribute, T value) {
    check(cublas().preference_set(preference.get(), attribute, &value, sizeof value),
          "cublasLtMatmulPreferenceSetAttribute");
}

Operation make_operation(const Problem& p) {
    const bool tf32 = p.in == DType::f32 && takes_tf32();
    cublasLtMatmulDesc_t created = nullptr;
    check(cublas().desc_create(&created, tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUDA_R_32F),
          "cublasLtMatmulDescCreate");
    Operation operation(created, cublas().desc_destroy);
    const auto as_op = [](bool transposed) { return transposed ? CUBLAS_OP_T : CUBLAS_OP_N; };
    set(operation, CUBLASLT_MATMUL_DESC_TRANSA, as_op(p.transpose_b));  // its first operand is our second
    set(operation, CUBLASLT_MATMUL_DESC_TRANSB, as_op(p.transpose_a));
    return operation;
}

/// A product ready to run.
struct Plan {
    explicit Plan(const Problem& p)
        : problem(p),
          operation(make_operation(p)),
          a(p.transpose_a ? make_layout(p.in, p.k, p.m) : make_layout(p.in, p.m, p.k)),
          b(p.transpose_b ? make_layout(p.in, p.n, p.k) : make_layout(p.in, p.k, p.n)),
          y(make_layout(p.out, p.m, p.n)) {}

    Problem problem;
    Operation operation;
    Layout a, b, y;
    cublasLtMatmulAlgo_t algorithm{};
};

cublasStatus_t run(const Plan& plan, const cublasLtMatmulAlgo_t& algorithm, void* y, const void* a, const void* b) {
    const float one = 1.0F;
    const float beta = plan.problem.accumulate ? 1.0F : 0.0F;
    return cublas().matmul(cublas().handle, plan.operation.get(), &one, b, plan.b.get(), a, plan.a.get(), &beta, y,
                           plan.y.get(), y, plan.y.get(), &algorithm, workspace(), workspace_bytes, stream());
}

Preference make_preference(const Problem& p) {
    cublasLtMatmulPreference_t created = nullptr;
    check(cublas().preference_create(&created), "cublasLtMatmulPreferenceCreate");
    Preference preference(created, cublas().preference_destroy);
    set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{workspace_bytes});
    // Parts of a sum are added in f32, never in a bf16 output.
    set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, std::uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, p.align_b);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, p.align_a);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, p.align_y);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, p.align_y);
    return preference;
}

/// The library's choices for a plan, the one it believes fastest first; at most `most`.
std::vector<cublasLtMatmulAlgo_t> candidates(const Plan& plan, int most) {
    constexpr int all = 8;
    std::array<cublasLtMatmulHeuristicResult_t, all> found{};
    int count = 0;
    const Problem& p = plan.problem;
    const Preference preference = make_preference(p);
    const cublasStatus_t status =
        cublas().algo_heuristic(cublas().handle, plan.operation.get(), plan.b.get(), plan.a.get(), plan.y.get(),
                                plan.y.get(), preference.get(), std::min(most, all), found.data(), &count);
    std::vector<cublasLtMatmulAlgo_t> usable;
    for (const auto& result : found)
        if (count-- > 0 && result.state == CUBLAS_STATUS_SUCCESS) usable.push_back(result.algo);
    require(!usable.empty(), "cublasLtMatmulAlgoGetHeuristic: ", cublas().status_name(status), " for a product ", p.m,
            "x", p.n, "x", p.k, " of ", name_of(p.in), " into ", name_of(p.out), " (rows, columns, terms)");
    return usable;
}

/// Memory outside of what tensors are counted in: measuring must not raise a run's peak.
class Scratch {
public:
    explicit Scratch(std::size_t bytes) : block_(take_memory(bytes)) {}
    ~Scratch() { give_memory(block_); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    void* get() const { return block_; }

private:
    void* block_;
};

/// The fastest candidate on these operands; y is left as it is. A later one must be faster by 2 per cent to be
/// preferred, for that much is noise.
cublasLtMatmulAlgo_t measured(const Plan& plan, const Tensor& y, const void* a, const void* b) {
    const auto all = candidates(plan, 8);
    if (all.size() == 1) return all.front();
    constexpr int rounds = 3;
    std::optional<Scratch> scratch;
    try {
        scratch.emplace(y.nbytes());
    } catch (const Error&) {  // memory is so short that measuring would end a run that could go on
        return all.front();
    }
    set_bytes(scratch->get(), 0, y.nbytes());
    Stopwatch watch;
    std::optional<cublasLtMatmulAlgo_t> best;
    double least = 0.0;
    for (const cublasLtMatmulAlgo_t& algorithm : all) {
        if (run(plan, algorithm, scratch->get(), a, b) != CUBLAS_STATUS_SUCCESS) continue;  // and caches are warm
        watch.start();
        for (int i = 0; i < rounds; ++i) check(run(plan, algorithm, scratch->get(), a, b), "cublasLtMatmul, measured");
        watch.stop();
        const double seconds = watch.seconds();
        if (best && seconds > 0.98 * least) continue;
        best = algorithm;
        least = seconds;
    }
    require(best.has_value(), "cublasLtMatmul: no candidate for a product runs");
    return *best;
}

/// Whether an algorithm that was chosen for another shape runs this one.
bool fits(const Plan& plan, const cublasLtMatmulAlgo_t& algorithm) {
    cublasLtMatmulHeuristicResult_t result{};
    return cublas().algo_check(cublas().handle, plan.operation.get(), plan.b.get(), plan.a.get(), plan.y.get(),
                               plan.y.get(), &algorithm, &result) == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= workspace_bytes;
}

cublasLtMatmulAlgo_t choose(const Plan& plan, const Tensor& y, const Tensor& a, const Tensor& b) {
    // Measuring takes some thirty products: a batch of another length must not do it again, and a small product takes
    // as long as its launch.
    constexpr double least_flops = 1e9;
    static std::map<Problem, cublasLtMatmulAlgo_t> choices;  // of classes
    if (takes_first() || plan.problem.flops() < least_flops) return candidates(plan, 1).front();
    const Problem stands_for = class_of(plan.problem);
    const auto found = choices.find(stands_for);
    if (found == choices.end()) return choices[stands_for] = measured(plan, y, a.raw(), b.raw());
    return fits(plan, found->second) ? found->second : candidates(plan, 1).front();
}

const Plan& plan_for(const Problem& problem, const Tensor& y, const Tensor& a, const Tensor& b) {
    // Packed batches differ in length, so the shapes of a long run are many. The choices outlive the plans: a plan that
    // is made again is the same.
    constexpr std::size_t most_plans = 16384;
    static auto& plans = *new std::map<Problem, Plan>;  // never destroyed: the library may be gone by then
    if (const auto found = plans.find(problem); found != plans.end()) return found->second;
    if (plans.size() >= most_plans) plans.clear();
    Plan plan(problem);
    plan.algorithm = choose(plan, y, a, b);
    return plans.emplace(problem, std::move(plan)).first->second;
}

}  // namespace

void check_products() {
    (void)takes_first();
    (void)takes_tf32();
    (void)cublas();
}

void matmul(const Tensor& y, const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b, bool accumulate) {
    const Problem p{.m = y.dim(0),
                    .n = y.dim(1),
                    .k = a.dim(transpose_a ? 0 : 1),
                    .transpose_a = transpose_a,
                    .transpose_b = transpose_b,
                    .accumulate = accumulate,
                    .in = a.dtype(),
                    .out = y.dtype(),
                    .align_a = alignment_of(a),
                    .align_b = alignment_of(b),
                    .align_y = alignment_of(y)};
    with_float(p.in, []<class T>() {});  // f32 or bf16, else Error
    if (p.m == 0 || p.n == 0) return;
    if (p.k == 0) {
        if (!accumulate) cuda::fill(y, 0.0);
        return;
    }
    const Plan& plan = plan_for(p, y, a, b);
    check(run(plan, plan.algorithm, y.raw(), a.raw(), b.raw()), "cublasLtMatmul");
}

}  // namespace uipe::tensor::cuda

#endif
