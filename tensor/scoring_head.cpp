#include "tensor/scoring_head.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tensor/cpu/cpu.h"
#include "tensor/cpu/math.h"
#include "tensor/ops.h"
#include "tensor/parallel.h"

namespace uipe::tensor {
namespace {

using cpu::acc_t;

constexpr std::int64_t slice_tokens = 1024;
constexpr std::int64_t chunk_rows = 512;  // times a slice: 2 MiB of f32

/// What a row knows of its logits after some slices.
template <class A>
struct Sum {
    A most = -std::numeric_limits<A>::infinity();
    A total = 0;  // of exp(logit - most)
    A own = 0;    // the target's logit

    void add(const A* x, std::int64_t n) {
        A highest = most;
#pragma omp simd reduction(max : highest)
        for (std::int64_t v = 0; v < n; ++v) highest = highest < x[v] ? x[v] : highest;
        A sum = 0;
#pragma omp simd reduction(+ : sum)
        for (std::int64_t v = 0; v < n; ++v) sum += cpu::fast_exp(x[v] - highest);
        total = total * std::exp(most - highest) + sum;
        most = highest;
    }
};

/// The log-probability of each row's target.
template <class A>
std::vector<A> logprobs(const Tensor& hidden, const std::vector<std::int32_t>& targets,
                        const std::vector<PackedMatrix>& slices) {
    std::vector<Sum<A>> sums(targets.size());
    std::int64_t first = 0;
    for (const PackedMatrix& slice : slices) {
        const std::int64_t n = slice.weight().dim(0);
        const Tensor scores = Tensor::empty({hidden.dim(0), n}, accumulator_of(hidden.dtype()), hidden.device());
        slice.multiply(scores, hidden);
        if (hidden.device().kind == Device::Kind::meta) continue;
        parallel_for(hidden.dim(0), 8, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t i = begin; i < end; ++i) {
                const A* x = scores.data<A>() + i * n;
                const auto row = static_cast<std::size_t>(i);
                sums[row].add(x, n);
                const std::int64_t target = targets[row] - first;
                if (0 <= target && target < n) sums[row].own = x[target];
            }
        });
        first += n;
    }
    if (hidden.device().kind == Device::Kind::meta) return std::vector<A>(targets.size());
    std::vector<A> out;
    for (const Sum<A>& sum : sums) out.push_back(sum.own - (sum.most + std::log(sum.total)));
    return out;
}

}  // namespace

ScoringHead::ScoringHead(const Tensor& w, bool pack) : w_(w) {
    if (stands_for(w.device()) != Device{}) return;
    for (std::int64_t v = 0; v < w.dim(0); v += slice_tokens)
        slices_.emplace_back(w.rows(v, std::min(v + slice_tokens, w.dim(0))), pack);
}

Tensor ScoringHead::logprob(const Tensor& hidden, const Tensor& targets) const {
    require(targets.numel() == hidden.dim(0), "scoring: ", targets.numel(), " targets for ", hidden.dim(0), " rows");
    if (stands_for(w_.device()) != Device{}) {
        Tensor out = Tensor::empty({hidden.dim(0)}, accumulator_of(hidden.dtype()), hidden.device());
        token_logprob(out, hidden, w_, targets);
        return out.to(Device{});
    }
    const std::int64_t V = w_.dim(0);
    const std::int32_t* target = targets.data<std::int32_t>();
    Tensor out = Tensor::zeros({hidden.dim(0)}, accumulator_of(hidden.dtype()));
    std::vector<std::int32_t> rows;
    for (std::int32_t t = 0; t < hidden.dim(0); ++t) {
        require(target[t] < V, "scoring: target ", target[t], " of row ", t, " outside the vocabulary of ", V);
        if (target[t] >= 0) rows.push_back(t);
    }
    for (auto begin = rows.begin(); begin != rows.end();) {
        const auto end = begin + std::min<std::ptrdiff_t>(chunk_rows, rows.end() - begin);
        const std::vector<std::int32_t> chunk(begin, end);
        std::vector<std::int32_t> wanted;
        for (const std::int32_t t : chunk) wanted.push_back(target[t]);
        const Tensor h = Tensor::empty({end - begin, hidden.dim(1)}, hidden.dtype(), hidden.device());
        embedding(h, hidden, Tensor::from(chunk));
        cpu::with_accumulator(out.dtype(), [&]<class A>() {
            const std::vector<A> logp = logprobs<A>(h, wanted, slices_);
            for (std::size_t i = 0; i < chunk.size(); ++i) out.data<A>()[chunk[i]] = logp[i];
        });
        begin = end;
    }
    return out;
}

}  // namespace uipe::tensor
