#include "llama/batch.h"

#include <algorithm>
#include <limits>

#include "tensor/base/error.h"

namespace uipe::llama {

namespace {

/// How many first rows of two sequences hold the same token and the same target.
std::int64_t rows_in_common(const Sequence& a, const Sequence& b) {
    const auto end = std::mismatch(a.ids.begin(), a.ids.end(), b.ids.begin(), b.ids.end()).first;
    std::int64_t rows = end - a.ids.begin() - 1;  // the last common token predicts what differs
    if (a.first_target != b.first_target) rows = std::min({rows, a.first_target - 1, b.first_target - 1});
    return std::max<std::int64_t>(0, rows);
}

Batch pack(std::span<const Sequence> sequences, bool share) {
    require(!sequences.empty(), "a batch needs at least one sequence");
    using Indices = std::vector<std::int32_t>;
    Batch batch;
    Indices tokens;
    Indices targets;
    Indices positions;
    Indices cu_seqlens{0};
    Indices key_rows;
    Indices cu_keys{0};
    Indices places;
    for (std::size_t b = 0; b < sequences.size(); ++b) {
        const auto& [ids, first_target, place] = sequences[b];
        const auto rows = static_cast<std::int64_t>(ids.size()) - 1;
        require(rows >= 1, "sequence ", b, " of the batch has ", rows + 1, " tokens; at least two are needed");
        require(rows <= std::numeric_limits<std::int32_t>::max() - cu_keys.back(), "the batch exceeds 2^31 tokens");
        const std::int64_t shared = share && b > 0 ? rows_in_common(sequences[b - 1], sequences[b]) : 0;
        for (std::int64_t i = 0; i < shared; ++i)
            key_rows.push_back(key_rows[static_cast<std::size_t>(cu_keys[b - 1] + i)]);
        for (std::int64_t i = shared; i < rows; ++i) {
            key_rows.push_back(static_cast<std::int32_t>(tokens.size()));
            tokens.push_back(ids[static_cast<std::size_t>(i)]);
            targets.push_back(i + 1 >= first_target ? ids[static_cast<std::size_t>(i + 1)] : -1);
            positions.push_back(static_cast<std::int32_t>(i));
            if (place >= 0) places.push_back(place + positions.back());
            batch.num_targets += targets.back() < 0 ? 0 : 1;
        }
        cu_seqlens.push_back(static_cast<std::int32_t>(tokens.size()));
        cu_keys.push_back(static_cast<std::int32_t>(key_rows.size()));
        batch.max_len = std::max(batch.max_len, rows);
    }
    batch.T = cu_seqlens.back();
    batch.B = static_cast<std::int64_t>(sequences.size());
    batch.tokens = tensor::Tensor::from(tokens);
    batch.targets = tensor::Tensor::from(targets);
    batch.positions = tensor::Tensor::from(positions);
    batch.cu_seqlens = tensor::Tensor::from(cu_seqlens);
    if (places.size() == tokens.size()) batch.places = tensor::Tensor::from(places);
    if (!share) return batch;
    batch.key_rows = tensor::Tensor::from(key_rows);
    batch.cu_keys = tensor::Tensor::from(cu_keys);
    return batch;
}

}  // namespace

Batch pack(std::span<const Sequence> sequences) { return pack(sequences, false); }
Batch pack_sharing(std::span<const Sequence> sequences) { return pack(sequences, true); }

}  // namespace uipe::llama
