#include "llama/logprobs.h"

#include <algorithm>

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

}  // namespace

std::vector<std::vector<double>> token_logprobs(const Llama& model, std::span<const Sequence> sequences,
                                                std::int64_t tokens_per_batch,
                                                const std::function<void(std::size_t, std::size_t)>& progress) {
    const autograd::NoGrad guard;
    const tensor::Tensor& weight = model.head().value();
    const tensor::ScoringHead head(weight, worth_packing(weight, sequences));
    std::vector<std::vector<double>> out(sequences.size());
    for (std::size_t begin = 0; begin < sequences.size();) {
        std::size_t end = begin;
        for (std::int64_t tokens = 0; end < sequences.size() && (end == begin || tokens < tokens_per_batch); ++end)
            tokens += static_cast<std::int64_t>(sequences[end].ids.size());
        const Batch batch = pack_sharing(sequences.subspan(begin, end - begin));
        const tensor::Tensor logp = head.logprob(model.hidden(batch).value(), batch.targets).to(tensor::DType::f64);
        const double* p = logp.data<double>();
        const std::int32_t* row = batch.key_rows.data<std::int32_t>();
        for (; begin < end; ++begin) {
            const auto rows = static_cast<std::int64_t>(sequences[begin].ids.size()) - 1;
            for (std::int64_t i = std::max<std::int64_t>(0, sequences[begin].first_target - 1); i < rows; ++i)
                out[begin].push_back(p[row[i]]);
            row += rows;
        }
        if (progress) progress(end, sequences.size());
    }
    return out;
}

}  // namespace uipe::llama
