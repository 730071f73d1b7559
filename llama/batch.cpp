#include "llama/batch.h"

#include <algorithm>
#include <limits>

#include "tensor/base/error.h"

namespace uipe::llama {

Batch pack(std::span<const Sequence> sequences) {
    require(!sequences.empty(), "a batch needs at least one sequence");
    Batch batch;
    std::vector<std::int32_t> tokens;
    std::vector<std::int32_t> targets;
    std::vector<std::int32_t> positions;
    std::vector<std::int32_t> cu_seqlens = {0};
    for (const Sequence& sequence : sequences) {
        const auto rows = static_cast<std::int64_t>(sequence.ids.size()) - 1;
        require(rows >= 1, "sequence ", cu_seqlens.size() - 1, " of the batch has ", rows + 1,
                " tokens; at least two are needed");
        require(rows <= std::numeric_limits<std::int32_t>::max() - cu_seqlens.back(), "the batch exceeds 2^31 tokens");
        tokens.insert(tokens.end(), sequence.ids.begin(), sequence.ids.end() - 1);
        for (std::int64_t i = 0; i < rows; ++i) {
            const bool is_target = i + 1 >= sequence.first_target;
            targets.push_back(is_target ? sequence.ids[static_cast<std::size_t>(i + 1)] : -1);
            positions.push_back(static_cast<std::int32_t>(i));
            batch.num_targets += is_target ? 1 : 0;
        }
        cu_seqlens.push_back(static_cast<std::int32_t>(cu_seqlens.back() + rows));
        batch.max_len = std::max(batch.max_len, rows);
    }
    batch.T = cu_seqlens.back();
    batch.B = static_cast<std::int64_t>(sequences.size());
    batch.tokens = tensor::Tensor::from(tokens);
    batch.targets = tensor::Tensor::from(targets);
    batch.positions = tensor::Tensor::from(positions);
    batch.cu_seqlens = tensor::Tensor::from(cu_seqlens);
    return batch;
}

}  // namespace uipe::llama
