// Matrix products: oneDNN in f32 and bf16, with primitives cached by shape; a plain loop in f64.
#include <dnnl.hpp>
#include <map>
#include <tuple>
#include <unordered_map>

#include "tensor/cpu/cpu.h"
#include "tensor/parallel.h"

namespace uipe::tensor::cpu {
namespace {

struct Problem {
    std::int64_t m, n, k;
    bool transpose_a, transpose_b, accumulate;
    DType in, out;
    auto key() const { return std::tie(m, n, k, transpose_a, transpose_b, accumulate, in, out); }
    bool operator<(const Problem& other) const { return key() < other.key(); }
};

/// A product ready to run; `supported` is false where this machine's oneDNN has no kernel for the type.
struct Plan {
    bool supported = false;
    dnnl::memory::desc a, b, y;
    dnnl::matmul primitive;
};

dnnl::engine& engine() {
    static dnnl::engine instance(dnnl::engine::kind::cpu, 0);
    return instance;
}

dnnl::memory::desc describe(std::int64_t rows, std::int64_t columns, DType dtype, bool transposed) {
    using D = dnnl::memory::data_type;
    using S = dnnl::memory::dims;
    const S strides = transposed ? S{1, rows} : S{columns, 1};
    return {S{rows, columns}, dtype == DType::bf16 ? D::bf16 : D::f32, strides};
}

Plan make_plan(const Problem& p) {
    Plan plan;
    plan.a = describe(p.m, p.k, p.in, p.transpose_a);
    plan.b = describe(p.k, p.n, p.in, p.transpose_b);
    plan.y = describe(p.m, p.n, p.out, false);
    dnnl::primitive_attr attributes;
    if (p.accumulate) {
        dnnl::post_ops post;
        post.append_sum(1.0F);
        attributes.set_post_ops(post);
    }
    try {
#if DNNL_VERSION_MAJOR >= 3
        const dnnl::matmul::primitive_desc description(engine(), plan.a, plan.b, plan.y, attributes);
#else
        const dnnl::matmul::primitive_desc description({plan.a, plan.b, plan.y}, attributes, engine());
#endif
        plan.primitive = dnnl::matmul(description);
        plan.supported = true;
    } catch (const dnnl::error& e) {
        if (e.status != dnnl_unimplemented) throw Error(cat("oneDNN matmul: ", e.what()));
    }
    return plan;
}

const Plan& plan_for(const Problem& problem) {
    // Packed batches differ in length, so the shapes of a long run are many: start afresh before they fill the memory.
    constexpr std::size_t most_plans = 2048;
    static std::map<Problem, Plan> plans;
    if (const auto found = plans.find(problem); found != plans.end()) return found->second;
    if (plans.size() >= most_plans) plans.clear();
    return plans.emplace(problem, make_plan(problem)).first->second;
}

void multiply_f64(const Tensor& y, const Tensor& a, const Tensor& b, const Problem& p) {
    const double* pa = a.data<double>();
    const double* pb = b.data<double>();
    double* py = y.data<double>();
    parallel_for(p.m, 4, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
            double* row = py + i * p.n;
            if (!p.accumulate) std::fill(row, row + p.n, 0.0);
            for (std::int64_t l = 0; l < p.k; ++l) {
                const double x = p.transpose_a ? pa[l * p.m + i] : pa[i * p.k + l];
                if (p.transpose_b)
                    for (std::int64_t j = 0; j < p.n; ++j) row[j] += x * pb[j * p.k + l];
                else
                    for (std::int64_t j = 0; j < p.n; ++j) row[j] += x * pb[l * p.n + j];
            }
        }
    });
}

}  // namespace

void matmul(const Tensor& y, const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b, bool accumulate) {
    const Problem p{y.dim(0),  y.dim(1), a.dim(transpose_a ? 0 : 1), transpose_a, transpose_b, accumulate,
                    a.dtype(), y.dtype()};
    if (p.m == 0 || p.n == 0) return;
    if (p.k == 0) {
        if (!accumulate) cpu::fill(y, 0.0);
        return;
    }
    if (p.in == DType::f64) return multiply_f64(y, a, b, p);
    const Plan& plan = plan_for(p);
    if (!plan.supported) {  // a processor without bf16 kernels: the same product in f32
        require(p.in == DType::bf16, "oneDNN has no f32 matmul here");
        const Tensor wide = y.to(DType::f32);
        cpu::matmul(wide, a.to(DType::f32), transpose_a, b.to(DType::f32), transpose_b, accumulate);
        if (wide.raw() != y.raw()) cpu::copy(y, wide);
        return;
    }
    static dnnl::stream stream(engine());
    dnnl::memory memory_a(plan.a, engine(), a.raw());
    dnnl::memory memory_b(plan.b, engine(), b.raw());
    dnnl::memory memory_y(plan.y, engine(), y.raw());
    plan.primitive.execute(stream, {{DNNL_ARG_SRC, memory_a}, {DNNL_ARG_WEIGHTS, memory_b}, {DNNL_ARG_DST, memory_y}});
    stream.wait();
}

}  // namespace uipe::tensor::cpu
