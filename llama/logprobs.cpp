#include "llama/logprobs.h"

#include <algorithm>
#include <cmath>

#include "tensor/scoring_head.h"

namespace uipe::llama {

namespace {

/// Packing reads the LM head once more; it pays for as many products as that takes, where a second copy is small.
bool worth_packing(const tensor::Tensor& head, std::span<const Sequence> sequences) {
    constexpr std::size_t fewest_tokens = 1024;
    constexpr std::size_t most_bytes = std::size_t{1} << 30;
    std::size_t tokens = 0;
    for (const Sequence& sequence : sequences) tokens += sequence.ids.size();
    return tokens >= fewest_tokens && head.nbytes() <= most_bytes;
}

/// Of every row of a batch.
std::vector<TokenScore> scores_of(const tensor::ScoringHead& head, const tensor::Tensor& hidden,
                                  const tensor::Tensor& targets, bool closely) {
    const auto doubles = [](const tensor::Tensor& x) { return x.to(tensor::DType::f64).to_vector<double>(); };
    std::vector<TokenScore> out;
    if (!closely) {
        for (const double logp : doubles(head.logprob(hidden, targets))) out.push_back({logp});
        return out;
    }
    const auto [logp, argmax, moments] = head.look_closely(hidden, targets);
    const std::vector<double> p = doubles(logp), m = doubles(moments);
    for (std::size_t t = 0; t < p.size(); ++t)
        out.push_back(
            {p[t], argmax.data<std::int32_t>()[t] == targets.data<std::int32_t>()[t], m[2 * t], m[2 * t + 1]});
    return out;
}

}  // namespace

std::vector<std::vector<TokenScore>> token_scores(const Llama& model, std::span<const Sequence> sequences, bool closely,
                                                  std::int64_t tokens_per_batch,
                                                  const std::function<void(std::size_t, std::size_t)>& progress) {
    const autograd::NoGrad guard;
    const tensor::Tensor& weight = model.head().value();
    const tensor::ScoringHead head(weight, worth_packing(weight, sequences));
    std::vector<std::vector<TokenScore>> out(sequences.size());
    for (std::size_t begin = 0; begin < sequences.size();) {
        std::size_t end = begin;
        for (std::int64_t tokens = 0; end < sequences.size() && (end == begin || tokens < tokens_per_batch); ++end)
            tokens += static_cast<std::int64_t>(sequences[end].ids.size());
        const Batch batch = pack_sharing(sequences.subspan(begin, end - begin));
        const auto scores = scores_of(head, model.hidden(batch).value(), batch.targets, closely);
        const std::int32_t* row = batch.key_rows.data<std::int32_t>();
        for (; begin < end; ++begin) {
            const auto rows = static_cast<std::int64_t>(sequences[begin].ids.size()) - 1;
            for (std::int64_t i = std::max<std::int64_t>(0, sequences[begin].first_target - 1); i < rows; ++i) {
                out[begin].push_back(scores[static_cast<std::size_t>(row[i])]);
                if (!std::isfinite(out[begin].back().logp))
                    throw Diverged(cat("sequence ", begin, ", token ", i + 1, ": the model gives a log-probability"));
            }
            row += rows;
        }
        if (progress) progress(end, sequences.size());
    }
    return out;
}

std::vector<std::vector<double>> token_logprobs(const Llama& model, std::span<const Sequence> sequences,
                                                std::int64_t tokens_per_batch,
                                                const std::function<void(std::size_t, std::size_t)>& progress) {
    std::vector<std::vector<double>> out;
    for (const auto& tokens : token_scores(model, sequences, false, tokens_per_batch, progress)) {
        out.emplace_back();
        for (const TokenScore& token : tokens) out.back().push_back(token.logp);
    }
    return out;
}

}  // namespace uipe::llama
