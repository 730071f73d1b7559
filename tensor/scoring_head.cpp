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
    // Kept by those that are looked at closely:
    A first = 0;   // the sum of exp(z) z, z = logit - most
    A second = 0;  // of exp(z) z²
    std::int64_t best = 0;
    std::int64_t seen = 0;

    /// Not inlined: copies for one thread and for many may fuse other products and sums, and differ by a bit.
    template <bool closely>
    [[gnu::noinline]] void add(const A* x, std::int64_t n) {
        A highest = most;
#pragma omp simd reduction(max : highest)
        for (std::int64_t v = 0; v < n; ++v) highest = highest < x[v] ? x[v] : highest;
        if constexpr (closely) rise(x, n, highest);
        A sum = 0;
        A one = 0;
        A two = 0;
#pragma omp simd reduction(+ : sum, one, two)
        for (std::int64_t v = 0; v < n; ++v) {
            const A z = x[v] - highest;
            const A e = cpu::fast_exp(z);
            sum += e;
            if constexpr (closely) {
                one += e * z;
                two += e * z * z;
            }
        }
        total = total * std::exp(most - highest) + sum;
        first += one;
        second += two;
        most = highest;
    }

    A logp() const { return own - (most + std::log(total)); }
    A mean_logp() const { return first / total - std::log(total); }
    A variance() const { return second / total - first / total * (first / total); }

private:
    /// Before `most` rises to `highest`, the largest of the next n: each z so far falls by as much. Nothing cancels,
    /// for no term changes its sign.
    void rise(const A* x, std::int64_t n, A highest) {
        if (highest > most) {
            const A step = highest - most;
            const A scale = std::exp(-step);
            best = seen + (std::find(x, x + n, highest) - x);
            if (seen > 0) {
                second = scale * (second - 2 * step * first + step * step * total);
                first = scale * (first - step * total);
            }
        }
        seen += n;
    }
};

/// Of each row of hidden; none on a meta device.
template <class A, bool closely>
std::vector<Sum<A>> sums_of(const Tensor& hidden, const std::vector<std::int32_t>& targets,
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
                sums[row].template add<closely>(x, n);
                const std::int64_t target = targets[row] - first;
                if (0 <= target && target < n) sums[row].own = x[target];
            }
        });
        first += n;
    }
    if (hidden.device().kind == Device::Kind::meta) sums.clear();
    return sums;
}

}  // namespace

ScoringHead::ScoringHead(const Tensor& w, bool pack) : w_(w) {
    if (stands_for(w.device()) != Device{}) return;
    for (std::int64_t v = 0; v < w.dim(0); v += slice_tokens)
        slices_.emplace_back(w.rows(v, std::min(v + slice_tokens, w.dim(0))), pack);
}

ScoringHead::Scores ScoringHead::score(const Tensor& hidden, const Tensor& targets, bool closely) const {
    require(targets.numel() == hidden.dim(0), "scoring: ", targets.numel(), " targets for ", hidden.dim(0), " rows");
    const std::int64_t T = hidden.dim(0);
    const std::int64_t V = w_.dim(0);
    const DType acc = accumulator_of(hidden.dtype());
    Scores out;
    if (closely) out.argmax = Tensor::full({T}, DType::i32, -1);
    if (stands_for(w_.device()) != Device{}) {
        const Tensor logp = Tensor::empty({T}, acc, hidden.device());
        const Tensor moments = closely ? Tensor::empty({T, 2}, acc, hidden.device()) : Tensor();
        token_logprob(logp, hidden, w_, targets, out.argmax, {}, moments);
        out.logp = logp.to(Device{});
        if (closely) out.moments = moments.to(Device{});
        return out;
    }
    out.logp = Tensor::zeros({T}, acc);
    if (closely) out.moments = Tensor::zeros({T, 2}, acc);
    const std::int32_t* target = targets.data<std::int32_t>();
    std::vector<std::int32_t> rows;
    for (std::int32_t t = 0; t < T; ++t) {
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
        cpu::with_accumulator(acc, [&]<class A>() {
            const auto sums = closely ? sums_of<A, true>(h, wanted, slices_) : sums_of<A, false>(h, wanted, slices_);
            for (std::size_t i = 0; i < sums.size(); ++i) {
                out.logp.data<A>()[chunk[i]] = sums[i].logp();
                if (!closely) continue;
                out.argmax.data<std::int32_t>()[chunk[i]] = static_cast<std::int32_t>(sums[i].best);
                out.moments.data<A>()[2 * chunk[i]] = sums[i].mean_logp();
                out.moments.data<A>()[2 * chunk[i] + 1] = sums[i].variance();
            }
        });
        begin = end;
    }
    return out;
}

}  // namespace uipe::tensor
