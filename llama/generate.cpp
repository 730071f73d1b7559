#include "llama/generate.h"

#include <algorithm>
#include <cmath>

#include "llama/decoder.h"
#include "tensor/ops.h"
#include "tensor/parallel.h"
#include "tensor/random.h"

namespace uipe::llama {
namespace {

using tensor::DType;
using tensor::Tensor;

/// Draws from softmax(logits / temperature), cut to the likeliest top_k and to the likeliest that reach top_p.
std::int32_t sample(const float* logits, std::int64_t V, const GenerateOptions& o, std::uint64_t prompt,
                    std::uint64_t step) {
    std::vector<std::pair<double, std::int32_t>> weights;
    if (!std::all_of(logits, logits + V, [](float v) { return std::isfinite(v); }))
        throw Diverged(cat("prompt ", prompt, ": the model gives a logit"));
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

/// A prompt that is running.
struct Row {
    std::size_t prompt;
    std::int32_t slot;    // its cache row
    std::int32_t length;  // tokens in the cache
    std::int32_t last;    // the newest token, not yet there
};

/// Prompts wait in order for one of the cache's rows, the slots; one that ends leaves its slot to the next.
class Generator {
public:
    Generator(const Llama& model, std::span<const std::vector<std::int32_t>> prompts, const GenerateOptions& options)
        : model_(model), prompts_(prompts), options_(options), out_(prompts.size()) {}

    std::vector<std::vector<std::int32_t>> run() {
        if (prompts_.empty() || options_.max_new_tokens == 0) return std::move(out_);
        for (std::size_t i = 0; i < prompts_.size(); ++i) limits_.push_back(limit_of(i));
        const auto all = static_cast<std::int64_t>(prompts_.size());
        slots_ = static_cast<std::size_t>(std::clamp<std::int64_t>(options_.batch_size, 1, all));
        for (std::size_t slot = slots_; slot-- > 0;) free_.push_back(static_cast<std::int32_t>(slot));
        Decoder decoder(model_, static_cast<std::int64_t>(slots_), *std::max_element(limits_.begin(), limits_.end()));
        while (next_ < prompts_.size() || !rows_.empty()) {
            if (worth_filling())
                fill(decoder);
            else
                step(decoder);
        }
        return std::move(out_);
    }

private:
    /// Prompt and continuation together.
    std::int64_t limit_of(std::size_t prompt) const {
        const auto length = static_cast<std::int64_t>(prompts_[prompt].size());
        const std::int64_t positions = model_.config().max_position_embeddings;
        const std::int64_t most = options_.max_length > 0 ? std::min(options_.max_length, positions) : positions;
        require_input(length > 0, "prompt ", prompt, " is empty");
        require_input(length < most, "prompt ", prompt, " has ", length,
                      " tokens, and the limit for prompt and continuation is ", most);
        return length + std::min(most - length, options_.max_new_tokens);
    }

    /// Prompts join a quarter of the slots at a time: a product over few rows takes as long as one over many, and all
    /// that run wait for it.
    bool worth_filling() const {
        const std::size_t waiting = prompts_.size() - next_;
        return waiting > 0 && free_.size() >= std::min(waiting, std::max<std::size_t>(1, slots_ / 4));
    }

    /// Gives the free slots to the prompts that wait, all in one batch.
    void fill(Decoder& decoder) {
        const std::size_t first = rows_.size();
        std::vector<Sequence> sequences;
        std::vector<std::int32_t> slots;
        for (; next_ < prompts_.size() && !free_.empty(); ++next_) {
            slots.push_back(free_.back());
            free_.pop_back();
            rows_.push_back({next_, slots.back(), static_cast<std::int32_t>(prompts_[next_].size()), 0});
            sequences.push_back({prompts_[next_], 1});
            sequences.back().ids.push_back(0);  // pack() keeps every id but the last as input
        }
        const Tensor hidden = decoder.prefill(pack(sequences), slots);
        // Here alone, once a prompt: at every token it would be a GPU that is waited for.
        if (!tensor::all_finite(hidden)) throw Diverged("the model gives a hidden state");
        advance(first, hidden, decoder);
    }

    /// Runs the newest token of each row through the model.
    void step(Decoder& decoder) {
        const Tensor hidden = decoder.step(of_rows(&Row::last), of_rows(&Row::length), of_rows(&Row::slot));
        for (Row& row : rows_) ++row.length;
        advance(0, hidden, decoder);
    }

    Tensor of_rows(std::int32_t Row::*field) const {
        Tensor out = Tensor::empty({static_cast<std::int64_t>(rows_.size())}, DType::i32);
        std::transform(rows_.begin(), rows_.end(), out.data<std::int32_t>(),
                       [&](const Row& row) { return row.*field; });
        return out;
    }

    /// Picks the next token of each row from `first` on by its hidden state; rows that end leave.
    void advance(std::size_t first, const Tensor& hidden, Decoder& decoder) {
        pick(first, hidden, decoder);
        const std::size_t before = rows_.size();
        std::size_t kept = first;
        for (std::size_t i = first; i < before; ++i) {
            const Row row = rows_[i];
            if (goes_on(row))
                rows_[kept++] = row;
            else
                free_.push_back(row.slot);
        }
        rows_.resize(kept);
        if (options_.progress && kept < before) options_.progress(next_ - kept, prompts_.size());
    }

    /// Takes the row's newest token, and says whether another is wanted.
    bool goes_on(const Row& row) {
        const auto& ends = model_.config().eos_token_ids;
        if (options_.stop_at_eos && std::find(ends.begin(), ends.end(), row.last) != ends.end()) return false;
        out_[row.prompt].push_back(row.last);
        if (options_.on_token) options_.on_token(row.prompt, row.last);
        return row.length + 1 < limits_[row.prompt];
    }

    void pick(std::size_t first, const Tensor& hidden, Decoder& decoder) {
        if (options_.temperature > 0.0) return draw(first, decoder.logits(hidden).to(DType::f32).to(tensor::Device{}));
        const Tensor ids = decoder.likeliest(hidden);
        for (std::size_t i = first; i < rows_.size(); ++i) rows_[i].last = ids.data<std::int32_t>()[i - first];
    }

    /// The next tokens, drawn by the logits[n,V] of the rows from `first` on.
    void draw(std::size_t first, const Tensor& logits) {
        const std::int64_t V = logits.dim(1);
        const std::int64_t grain = 1 + 65536 / V;  // a thread is not worth waking for less
        tensor::parallel_for(logits.dim(0), grain, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t i = begin; i < end; ++i) {
                Row& row = rows_[first + static_cast<std::size_t>(i)];
                row.last = sample(logits.data<float>() + i * V, V, options_, row.prompt, out_[row.prompt].size());
            }
        });
    }

    const Llama& model_;
    std::span<const std::vector<std::int32_t>> prompts_;
    const GenerateOptions& options_;
    std::vector<std::vector<std::int32_t>> out_;
    std::vector<std::int64_t> limits_;  // of each prompt
    std::size_t slots_ = 0;
    std::size_t next_ = 0;            // the first prompt that waits
    std::vector<std::int32_t> free_;  // slots
    std::vector<Row> rows_;
};

}  // namespace

std::vector<std::vector<std::int32_t>> generate(const Llama& model, std::span<const std::vector<std::int32_t>> prompts,
                                                const GenerateOptions& options) {
    return Generator(model, prompts, options).run();
}

}  // namespace uipe::llama
