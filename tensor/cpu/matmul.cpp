// Matrix products: oneDNN in f32 and bf16, with primitives cached by shape; a plain loop in f64.
#include <atomic>
#include <dnnl.hpp>
#include <map>
#include <tuple>
#include <utility>
#include <vector>

#include "tensor/cpu/cpu.h"
#include "tensor/cpu/tile.h"
#include "tensor/parallel.h"

namespace uipe::tensor::cpu {

struct Packed {
    Tensor storage;
    DType dtype;
    dnnl::memory::desc layout;
};

namespace {

/// One call of oneDNN: y[m,n] (+)= a[m,k] b[k,n], operands as they lie in memory, rows (or columns, where transposed)
/// `lda`, `ldb`, `ldy` elements apart.
struct Problem {
    std::int64_t m, n, k, lda, ldb, ldy;
    bool transpose_a, transpose_b, accumulate, pack;
    DType in, out;
    Device device = {};           // a meta device: memory is taken, and nothing is computed
    int threads = num_threads();  // a plan is cut for so many
    auto key() const {
        return std::tie(m, n, k, lda, ldb, ldy, transpose_a, transpose_b, accumulate, pack, in, out, threads);
    }
    bool operator<(const Problem& other) const { return key() < other.key(); }
};

/// A product ready to run; `supported` is false where this machine's oneDNN has no kernel for the type.
struct Plan {
    bool supported = false;
    dnnl::memory::desc a, b, packed_b, y, scratchpad;
    dnnl::matmul primitive;
    dnnl::reorder pack;
};

dnnl::engine& engine() {
    static dnnl::engine instance(dnnl::engine::kind::cpu, 0);
    return instance;
}

/// A stream for the thread that asks.
dnnl::stream& stream() {
    thread_local dnnl::stream instance(engine());
    return instance;
}

/// Whether oneDNN's kernels are those of this set of instructions, or of a larger one.
bool has(dnnl::cpu_isa set) {
    const auto bits = static_cast<unsigned>(set);
    return (static_cast<unsigned>(dnnl::get_effective_cpu_isa()) & bits) == bits;
}

/// Without AVX-512 oneDNN cuts even short sums by the number of threads. (On two, our tiles take 8 per cent more.)
bool cuts_short_sums() { return !has(dnnl::cpu_isa::avx512_core); }

/// Without its instructions oneDNN emulates bf16, at a fraction of the rate of f32, and cuts sums by threads.
bool multiplies_bf16() { return has(dnnl::cpu_isa::avx512_core_bf16); }

/// While it lives, what the calling thread makes or runs in oneDNN is for that thread alone.
class OneThread {
public:
    OneThread() { omp_set_num_threads(1); }
    ~OneThread() { omp_set_num_threads(before_); }
    OneThread(const OneThread&) = delete;
    OneThread& operator=(const OneThread&) = delete;

private:
    int before_ = omp_get_max_threads();
};

using Layout = dnnl::memory::desc;

Layout describe(std::int64_t rows, std::int64_t columns, DType dtype, std::int64_t step, bool transposed) {
    using D = dnnl::memory::data_type;
    using S = dnnl::memory::dims;
    return {S{rows, columns}, dtype == DType::bf16 ? D::bf16 : D::f32, transposed ? S{1, step} : S{step, 1}};
}

/// The same operand in whichever layout oneDNN likes best.
Layout in_any_layout(const Problem& p) {
    const auto dtype = p.in == DType::bf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
    return {dnnl::memory::dims{p.k, p.n}, dtype, dnnl::memory::format_tag::any};
}

Problem as_it_lies(Problem p) {
    p.pack = false;
    return p;
}

/// Where oneDNN likes b in plain rows best, its kernel packs b itself, transposed or not: a copy would only cost time.
Plan make_plan(const Problem& p) {
    Plan plan;
    plan.a = describe(p.m, p.k, p.in, p.lda, p.transpose_a);
    plan.b = describe(p.k, p.n, p.in, p.ldb, p.transpose_b);
    plan.y = describe(p.m, p.n, p.out, p.ldy, false);
    const Layout b = p.pack ? in_any_layout(p) : plan.b;
    dnnl::primitive_attr attributes;
    // Memory to work in is given by the thread that runs: oneDNN's own belongs to the one that made the primitive.
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (p.accumulate) {
        dnnl::post_ops post;
        post.append_sum(1.0F);
        attributes.set_post_ops(post);
    }
    try {
#if DNNL_VERSION_MAJOR >= 3
        const dnnl::matmul::primitive_desc description(engine(), plan.a, b, plan.y, attributes);
#else
        const dnnl::matmul::primitive_desc description({plan.a, b, plan.y}, attributes, engine());
#endif
        plan.primitive = dnnl::matmul(description);
        plan.packed_b = description.weights_desc();
        plan.scratchpad = description.scratchpad_desc();
        if (p.pack && plan.packed_b == describe(p.k, p.n, p.in, p.n, false)) return make_plan(as_it_lies(p));
        if (p.pack) plan.pack = dnnl::reorder({engine(), plan.b, engine(), plan.packed_b});
        plan.supported = true;
    } catch (const dnnl::error& e) {
        if (e.status != dnnl_unimplemented) throw Error(cat("oneDNN matmul: ", e.what()));
    }
    return plan;
}

std::shared_ptr<const Plan> plan_for(const Problem& problem) {
    // Packed batches differ in length, so the shapes of a long run are many: start afresh before they fill the memory.
    constexpr std::size_t most_plans = 2048;
    static std::map<Problem, std::shared_ptr<const Plan>> plans;
    if (const auto found = plans.find(problem); found != plans.end()) return found->second;
    if (plans.size() >= most_plans) plans.clear();
    return plans.emplace(problem, std::make_shared<const Plan>(make_plan(problem))).first->second;
}

/// b as the plan wants it: itself, or a packed copy, which `storage` holds.
std::byte* packed(const Plan& plan, std::byte* b, Tensor& storage, Device device) {
    if (plan.packed_b == plan.b) return b;
    const auto floats = static_cast<std::int64_t>(plan.packed_b.get_size() / sizeof(float)) + 1;
    storage = Tensor::empty({floats}, DType::f32, device);
    if (device.kind == Device::Kind::meta) return b;
    dnnl::memory from(plan.b, engine(), b);
    dnnl::memory to(plan.packed_b, engine(), storage.raw());
    plan.pack.execute(stream(), from, to);
    return static_cast<std::byte*>(storage.raw());
}

/// Runs one product, b as packed() gives it.
void run(const Plan& plan, std::byte* y, std::byte* a, std::byte* b) {
    const dnnl::memory memory_a(plan.a, engine(), a);
    const dnnl::memory memory_b(plan.packed_b, engine(), b);
    const dnnl::memory memory_y(plan.y, engine(), y);
    thread_local std::vector<std::byte> scratch;
    if (scratch.size() < plan.scratchpad.get_size()) scratch.resize(plan.scratchpad.get_size());
    const dnnl::memory memory_scratch(plan.scratchpad, engine(), scratch.data());
    plan.primitive.execute(stream(), {{DNNL_ARG_SRC, memory_a},
                                      {DNNL_ARG_WEIGHTS, memory_b},
                                      {DNNL_ARG_DST, memory_y},
                                      {DNNL_ARG_SCRATCHPAD, memory_scratch}});
    stream().wait();
}

std::int64_t bytes(std::int64_t elements, DType dtype) { return elements * static_cast<std::int64_t>(size_of(dtype)); }

/// The product for one slice of b; false where oneDNN has no kernel for the type. A transposed `a` is cut into slices
/// of rows: oneDNN turns each round to read it, and is 5 per cent faster on what its caches hold.
bool execute(Problem p, std::byte* y, std::byte* a, std::byte* b) {
    constexpr std::int64_t most_rows = 1024;
    const std::int64_t m = p.m;
    if (p.transpose_a) p.m = std::min(m, most_rows);
    std::shared_ptr<const Plan> plan = plan_for(p);
    if (!plan->supported) return false;
    Tensor storage;
    std::byte* right = packed(*plan, b, storage, p.device);
    const Layout layout = plan->packed_b;
    for (std::int64_t at = 0; at < m; at += p.m, p.m = std::min(p.m, m - at)) {
        plan = plan_for(p);
        require(plan->supported, "oneDNN has a kernel for the first ", most_rows,
                " rows of a product, not for the last");
        if (plan->packed_b != layout) right = packed(*plan, b, storage, p.device);  // few rows may want another
        if (p.device.kind == Device::Kind::meta) continue;
        run(*plan, y + bytes(at * p.ldy, p.out), p.transpose_a ? a + bytes(at, p.in) : a, right);
    }
    return true;
}

/// The product in f32 in tiles of y, each by one thread, whose sizes depend on nothing but the shape: its bits are the
/// same whichever thread computes it. A transposed `a` is turned first, which oneDNN does slowly for few rows.
bool execute_in_tiles(Problem p, std::byte* y, std::byte* a, std::byte* b) {
    constexpr std::int64_t most_rows = 128;
    std::int64_t most_columns = 512;
    const auto count = [&] { return ceil_div(p.m, most_rows) * ceil_div(p.n, most_columns); };
    while (most_columns > 64 && count() < 16) most_columns /= 2;
    std::vector<Tile<float>> turned;  // rows of the transpose, for each thread
    const std::int64_t a_step = p.lda;
    if (p.transpose_a) {
        for (std::int64_t t = 0; t < std::min<std::int64_t>(num_threads(), count()); ++t)
            turned.emplace_back(most_rows, p.k + 16, p.device);  // rows a power of two apart would share a cache set
        p.lda = turned.front().stride();
        p.transpose_a = false;
    }
    p.threads = 1;
    struct Part {
        std::shared_ptr<const Plan> plan;
        std::int64_t row, column, rows;
    };
    std::vector<Part> parts;
    {
        const OneThread planned;
        for (std::int64_t i = 0; i < p.m; i += most_rows)
            for (std::int64_t j = 0; j < p.n; j += most_columns) {
                Problem part = p;
                part.m = std::min(most_rows, p.m - i);
                part.n = std::min(most_columns, p.n - j);
                parts.push_back({plan_for(part), i, j, part.m});
                if (!parts.back().plan->supported) return false;
            }
    }
    if (p.device.kind == Device::Kind::meta) return true;
    std::atomic<std::size_t> threads = 0;
    parallel_for(count(), 1, [&](std::int64_t begin, std::int64_t end) {
        const OneThread alone;
        Tile<float>* const left = turned.empty() ? nullptr : &turned[threads++];
        std::int64_t held = -1;  // the row from which `left` is filled
        for (auto at = static_cast<std::size_t>(begin); at < static_cast<std::size_t>(end); ++at) {
            const Part& part = parts[at];
            if (left != nullptr && std::exchange(held, part.row) != part.row)
                load_right_transposed(*left, reinterpret_cast<const float*>(a) + part.row, a_step, p.k, part.rows);
            run(*part.plan, y + bytes(part.row * p.ldy + part.column, p.out),
                left != nullptr ? reinterpret_cast<std::byte*>(left->row(0)) : a + bytes(part.row * a_step, p.in),
                b + bytes(p.transpose_b ? part.column * p.ldb : part.column, p.in));
        }
    });
    return true;
}

/// The product in slices of b, each packed, that is copied to the layout oneDNN likes best, where that pays: packing
/// costs one pass over b and makes the product 5 to 20 per cent faster, so b must be read often, for many rows of a. A
/// slice bounds the memory of the packed copy and leaves it in the cache. Sums cut between slices are added in order.
bool execute_in_slices(Problem p, std::byte* y, std::byte* a, std::byte* b) {
    constexpr std::int64_t rows_that_pay = 512;
    constexpr std::int64_t most_packed = std::int64_t{1} << 22;
    // The gradient of a weight sums over as many terms as a batch has tokens. From 2048 on oneDNN gives each thread
    // some of the terms, and the bits would depend on the number of threads.
    constexpr std::int64_t most_terms = 1024;
    p.pack = p.m >= rows_that_pay;
    const bool long_sum = p.transpose_a && p.out == DType::f32 && p.k > most_terms;
    const bool cut_k = long_sum || (p.k > p.n && p.out != DType::bf16);  // a bf16 y would be rounded between slices
    std::int64_t& cut = cut_k ? p.k : p.n;
    const std::int64_t whole = cut;
    std::int64_t slices = p.pack ? ceil_div(p.k * p.n, most_packed) : 1;
    if (long_sum) slices = std::max(slices, ceil_div(whole, most_terms));
    const std::int64_t step = round_up(ceil_div(whole, slices), 64);  // whole register tiles
    for (std::int64_t at = 0; at < whole; at += step) {
        cut = std::min(step, whole - at);
        std::byte* slice_a = cut_k ? a + bytes(p.transpose_a ? at * p.lda : at, p.in) : a;
        std::byte* slice_b = b + bytes(cut_k == p.transpose_b ? at : at * p.ldb, p.in);
        if (!execute(p, cut_k ? y : y + bytes(at, p.out), slice_a, slice_b)) return false;
        if (cut_k) p.accumulate = true;
    }
    return true;
}

constexpr std::int64_t most_few_rows = 2;  // up to here our own loop reads b faster than oneDNN does

void multiply_f64(const Tensor& y, const Tensor& a, const Tensor& b, const Problem& p) {
    if (p.device.kind == Device::Kind::meta) return;
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

/// y by multiply(the same in f32); false where that is.
template <class Multiply>
bool in_f32(const Tensor& y, const Multiply& multiply) {
    const Tensor wide = y.to(DType::f32);
    if (!multiply(wide)) return false;
    if (y.dtype() != DType::f32) tensor::copy(y, wide);
    return true;
}

std::byte* start(const Tensor& t) { return static_cast<std::byte*>(t.raw()); }

/// y[m,n] = a[m,k] w[n,k]^T, with w in the layout that oneDNN likes best.
Problem with_packed(std::int64_t m, std::int64_t n, std::int64_t k, DType in, DType out) {
    return {m, n, k, k, k, n, false, true, false, true, in, out};
}

}  // namespace

std::shared_ptr<const Packed> pack(const Tensor& w) {
    constexpr std::int64_t rows = 64;  // of a; the layout is the same for all numbers of them but the least
    if (w.dtype() == DType::f64 || w.numel() == 0 || cuts_short_sums()) return nullptr;
    if (w.dtype() == DType::bf16 && !multiplies_bf16()) return pack(w.to(DType::f32));
    const Problem p = with_packed(rows, w.dim(0), w.dim(1), w.dtype(), w.dtype());
    const auto plan = plan_for(p);
    if (!plan->supported || plan->packed_b == plan->b) return nullptr;
    auto out = std::make_shared<Packed>();
    packed(*plan, start(w), out->storage, w.device());
    out->dtype = w.dtype();
    out->layout = plan->packed_b;
    return out;
}

bool matmul(const Tensor& y, const Tensor& a, const Packed& w) {
    if (y.dim(0) <= most_few_rows) return false;
    if (a.dtype() != w.dtype) return in_f32(y, [&](const Tensor& wide) { return matmul(wide, a.to(w.dtype), w); });
    const auto plan = plan_for(with_packed(y.dim(0), y.dim(1), a.dim(1), a.dtype(), y.dtype()));
    if (!plan->supported || plan->packed_b != w.layout) return false;
    if (y.device().kind != Device::Kind::meta) run(*plan, start(y), start(a), start(w.storage));
    return true;
}

void matmul(const Tensor& y, const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b, bool accumulate) {
    const Problem p{y.dim(0),    y.dim(1),    a.dim(transpose_a ? 0 : 1),
                    a.dim(1),    b.dim(1),    y.dim(1),
                    transpose_a, transpose_b, accumulate,
                    false,       a.dtype(),   y.dtype(),
                    y.device()};
    if (p.m == 0 || p.n == 0) return;
    if (p.k == 0) {
        if (!accumulate) tensor::fill(y, 0.0);
        return;
    }
    if (p.in == DType::f64) return multiply_f64(y, a, b, p);
    if (p.m <= most_few_rows && !transpose_a && transpose_b && !accumulate) return matmul_few_rows(y, a, b);
    const auto execute = cuts_short_sums() ? execute_in_tiles : execute_in_slices;
    if ((p.in == DType::f32 || multiplies_bf16()) && execute(p, start(y), start(a), start(b))) return;
    require(p.in == DType::bf16, "oneDNN has no f32 matmul here");
    in_f32(y, [&](const Tensor& wide) {
        cpu::matmul(wide, a.to(DType::f32), transpose_a, b.to(DType::f32), transpose_b, accumulate);
        return true;
    });
}

}  // namespace uipe::tensor::cpu

bool uipe::tensor::products_keep_bits(DType dtype) {
    return dtype != DType::bf16 || !cpu::has(dnnl::cpu_isa::avx512_core_amx);
}
