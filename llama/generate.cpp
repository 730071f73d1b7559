#include "llama/generate.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "tensor/ops.h"
#include "tensor/random.h"

namespace uipe::llama {
namespace {

using tensor::Tensor;

/// Draws from softmax(logits / temperature), cut to the likeliest top_k and to the likeliest that reach top_p.
std::int32_t sample(const float* logits, std::int64_t V, const GenerateOptions& o, std::uint64_t prompt,
                    std::uint64_t step) {
    if (o.temperature == 0.0) return static_cast<std::int32_t>(std::max_element(logits, logits + V) - logits);
    std::vector<std::pair<double, std::int32_t>> weights;
    const double most = *std::max_element(logits, logits + V);
    for (std::int64_t v = 0; v < V; ++v)
        weights.emplace_back(std::exp((static_cast<double>(logits[v]) - most) / o.temperature),
                             static_cast<std::int32_t>(v));
    std::sort(weights.begin(), weights.end(), [](const auto& a, const auto& b) {
        return a.first > b.first || (a.first == b.first && a.second < b.second);
    });
    if (o.top_k > 0 && o.top_k < V) weights.resize(static_cast<std::size_t>(o.top_k));
    double total = 0.0;
    for (const auto& w : weights) total += w.first;
    double kept = 0.0;
    std::size_t n = 0;
    while (n < weights.size() && (n == 0 || kept < o.top_p * total)) kept += weights[n++].first;
    double draw = tensor::Random(o.seed, (prompt << 32) | step).uniform() * kept;
    for (std::size_t i = 0; i + 1 < n; ++i)
        if ((draw -= weights[i].first) < 0.0) return weights[i].second;
    return weights[n - 1].second;
}

/// A prompt that is running: its cache row, its last token and how far it is.
struct Row {
    std::size_t prompt;
    std::int32_t slot;
    std::int32_t last;
    std::int64_t length;  // tokens in the cache
    std::int64_t limit;   // prompt and continuation together
};

class Generator {
public:
    Generator(const Llama& model, std::span<const std::vector<std::int32_t>> prompts, const GenerateOptions& options)
        : model_(model), prompts_(prompts), options_(options), out_(prompts.size()) {}

    std::vector<std::vector<std::int32_t>> run() {
        const auto size = static_cast<std::size_t>(std::max<std::int64_t>(1, options_.batch_size));
        for (std::size_t begin = 0; begin < prompts_.size(); begin += size)
            run_group(begin, std::min(begin + size, prompts_.size()));
        return std::move(out_);
    }

private:
    std::int64_t limit_of(std::size_t prompt) const {
        const auto length = static_cast<std::int64_t>(prompts_[prompt].size());
        const std::int64_t positions = model_.config().max_position_embeddings;
        const std::int64_t most = options_.max_length > 0 ? std::min(options_.max_length, positions) : positions;
        require_input(length > 0, "prompt ", prompt, " is empty");
        require_input(length < most || options_.max_new_tokens == 0, "prompt ", prompt, " has ", length,
                      " tokens, and the limit for prompt and continuation is ", most);
        return length + std::min(most - length, options_.max_new_tokens);
    }

    void run_group(std::size_t begin, std::size_t end) {
        if (options_.max_new_tokens == 0) return;
        std::vector<Sequence> sequences;
        std::vector<std::int32_t> slots;
        std::vector<Row> rows;
        std::int64_t capacity = 0;
        for (std::size_t i = begin; i < end; ++i) {
            const auto slot = static_cast<std::int32_t>(i - begin);
            const auto length = static_cast<std::int64_t>(prompts_[i].size());
            rows.push_back({i, slot, 0, length, limit_of(i)});
            capacity = std::max(capacity, rows.back().limit);
            slots.push_back(slot);
            sequences.push_back({prompts_[i], length});
            sequences.back().ids.push_back(0);  // pack() keeps every id but the last as input
        }
        KvCache cache(model_.config(), static_cast<std::int64_t>(rows.size()), capacity, model_.dtype());
        const Batch batch = pack(sequences);
        advance(rows, last_rows(model_.prefill(batch, slots, cache), batch));
        while (!rows.empty()) advance(rows, step(rows, cache));
    }

    /// The hidden state of the last token of each sequence.
    static Tensor last_rows(const Tensor& hidden, const Batch& batch) {
        const std::int32_t* cu = batch.cu_seqlens.data<std::int32_t>();
        const Tensor out = Tensor::empty({batch.B, hidden.dim(1)}, hidden.dtype());
        for (std::int64_t b = 0; b < batch.B; ++b) {
            const Tensor row = hidden.rows(cu[b + 1] - 1, cu[b + 1]);
            std::memcpy(out.rows(b, b + 1).raw(), row.raw(), row.nbytes());
        }
        return out;
    }

    /// Runs the last token of each row through the model.
    Tensor step(std::vector<Row>& rows, KvCache& cache) const {
        std::vector<std::int32_t> tokens;
        std::vector<std::int32_t> positions;
        std::vector<std::int32_t> slots;
        for (Row& row : rows) {
            tokens.push_back(row.last);
            positions.push_back(static_cast<std::int32_t>(row.length++));
            slots.push_back(row.slot);
        }
        return model_.decode(Tensor::from(tokens), Tensor::from(positions), Tensor::from(slots), cache);
    }

    /// Picks the next token of each row from its hidden state; rows that end leave.
    void advance(std::vector<Row>& rows, const Tensor& hidden) {
        const autograd::NoGrad guard;
        const std::int64_t V = model_.config().vocab_size;
        const Tensor scores = Tensor::empty({hidden.dim(0), V}, tensor::accumulator_of(hidden.dtype()));
        tensor::logits(scores, hidden, model_.head().value());
        const Tensor logits = scores.to(tensor::DType::f32);
        std::vector<Row> alive;
        for (std::size_t i = 0; i < rows.size(); ++i) {
            Row row = rows[i];
            std::vector<std::int32_t>& ids = out_[row.prompt];
            row.last =
                sample(logits.data<float>() + static_cast<std::int64_t>(i) * V, V, options_, row.prompt, ids.size());
            const auto& ends = model_.config().eos_token_ids;
            if (options_.stop_at_eos && std::find(ends.begin(), ends.end(), row.last) != ends.end()) continue;
            ids.push_back(row.last);
            if (options_.on_token) options_.on_token(row.prompt, row.last);
            if (row.length + 1 < row.limit) alive.push_back(row);
        }
        rows = std::move(alive);
    }

    const Llama& model_;
    std::span<const std::vector<std::int32_t>> prompts_;
    const GenerateOptions& options_;
    std::vector<std::vector<std::int32_t>> out_;
};

}  // namespace

std::vector<std::vector<std::int32_t>> generate(const Llama& model, std::span<const std::vector<std::int32_t>> prompts,
                                                const GenerateOptions& options) {
    return Generator(model, prompts, options).run();
}

}  // namespace uipe::llama
