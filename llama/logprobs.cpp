#include "llama/logprobs.h"

namespace uipe::llama {

std::vector<std::vector<double>> token_logprobs(const Llama& model, std::span<const Sequence> sequences,
                                                std::int64_t tokens_per_batch,
                                                const std::function<void(std::size_t, std::size_t)>& progress) {
    const autograd::NoGrad guard;
    std::vector<std::vector<double>> out(sequences.size());
    for (std::size_t begin = 0; begin < sequences.size();) {
        std::size_t end = begin;
        for (std::int64_t tokens = 0; end < sequences.size() && (end == begin || tokens < tokens_per_batch); ++end)
            tokens += static_cast<std::int64_t>(sequences[end].ids.size());
        const Batch batch = pack(sequences.subspan(begin, end - begin));
        const tensor::Tensor logp = model.logprob(batch).value().to(tensor::DType::f64);
        const double* p = logp.data<double>();
        const std::int32_t* target = batch.targets.data<std::int32_t>();
        const std::int32_t* cu = batch.cu_seqlens.data<std::int32_t>();
        for (std::size_t b = 0; begin + b < end; ++b)
            for (std::int32_t t = cu[b]; t < cu[b + 1]; ++t)
                if (target[t] >= 0) out[begin + b].push_back(p[t]);
        begin = end;
        if (progress) progress(end, sequences.size());
    }
    return out;
}

}  // namespace uipe::llama
