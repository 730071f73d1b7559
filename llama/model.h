// The Llama model (Touvron et al. 2023) over a packed batch.
#pragma once

#include <memory>
#include <optional>

#include "llama/adapter.h"
#include "llama/batch.h"
#include "nn/attention.h"

namespace uipe::llama {

using autograd::Variable;

/// Fresh weights in `dtype`: matrices ~ N(0, initializer_range²), norm weights 1. The same for every dtype but
/// rounding, and on every device.
StateDict random_weights(const Config& config, tensor::DType dtype, std::uint64_t seed, tensor::Device device = {});

/// `weights` in `dtype` on `device`: shared where they are that already, so perhaps mapped from files and read-only.
/// They are converted on the host and moved one at a time.
StateDict moved_weights(const StateDict& weights, tensor::DType dtype, tensor::Device device = {});
/// A private copy of `weights` in `dtype` on `device`, for training.
StateDict own_weights(const StateDict& weights, tensor::DType dtype, tensor::Device device = {});

/// What the backward pass computes again so that it need not be kept, rising. What is kept of a token in a layer is
/// given in numbers of the activations' type + numbers of the accumulator's.
enum class Recompute : std::uint8_t {
    none,   // nothing: 4 C + 2 (H+K) D + 3 F, + H + 2
    norm,   // outputs of the norms and of SwiGLU, whose inputs are kept anyway: 2 C + 2 (H+K) D + 2 F, + H + 2
    mlp,    // the MLP up to its last product, from its input: 2 C + 2 (H+K) D, + H + 1
    block,  // the block, from its input: C
};
/// "none", "norm", "mlp" or "block"; InputError lists them.
Recompute recompute_named(const std::string& name);
const char* name_of(Recompute what);

/// What a model gives is not finite: its weights are damaged or have diverged.
struct Diverged : Error {
    /// what: such as "prompt 3: the model gives a logit".
    explicit Diverged(const std::string& what)
        : Error(what + " that is not finite; its weights are damaged or have diverged") {}
};

class Llama : public nn::Module {
public:
    /// A model of the given weights, all of one type, which it shares: training changes them in place.
    /// Error unless they are those of expected_weights(config).
    Llama(const Config& config, const StateDict& weights);

    const Config& config() const { return config_; }
    tensor::DType dtype() const { return head().value().dtype(); }
    tensor::Device device() const { return head().value().device(); }
    /// The weights by name, sharing storage; without the adapter's.
    StateDict weights() const;
    void collect(const std::string& prefix, nn::Parameters& out) const override;
    void freeze() override;

    /// Freezes the weights, and takes a private copy of an adapter, to be trained in their stead, in the type and place
    /// of the weights or of those that they will have. Error unless it is one for this model.
    void set_adapter(const Adapter& adapter, tensor::DType dtype, tensor::Device device);
    void set_adapter(const Adapter& adapter) { set_adapter(adapter, dtype(), device()); }
    /// What kind of adapter there is; nothing without one.
    const std::optional<LoraConfig>& lora() const { return lora_; }
    /// The adapter, its matrices sharing storage. Error without one.
    Adapter adapter() const;
    /// By what the adapter drops rows that have a place: another one for every step.
    void set_dropout_seed(std::uint64_t seed) { dropout_seed_ = seed; }
    /// The model as it is now, frozen, to compare with while the adapter is trained: it shares all but a copy of the
    /// adapter, and where that does nothing yet, all. Error without an adapter: the weights themselves would change.
    Llama reference() const;

    /// The normalised hidden states [T,C] that the LM head reads. No gradient where sequences share rows.
    Variable hidden(const Batch& batch) const;
    /// The hidden states [T,C] behind the first `layers` blocks, not normalised; those above are not run. Error unless
    /// the model has so many.
    Variable hidden_after(const Batch& batch, std::int64_t layers) const;
    /// logp[T] of the batch's targets, 0 where there is none.
    Variable logprob(const Batch& batch) const;
    /// The LM head [V,C]; the embedding when tied.
    const Variable& head() const;

    /// The parameters in units, as a forward pass meets them: the embedding (with all that is not in a block, when the
    /// head is tied to it), each block, and the final norm with the head.
    std::vector<nn::Parameters> units() const;
    /// The unit that the LM head is in.
    std::size_t head_unit() const { return head_ ? blocks_.size() + 1 : 0; }
    /// `observer` (none: nullptr) hears of every pass of hidden() from now on.
    void observe(nn::UnitObserver* observer) { observer_ = observer; }

    /// Changes memory and time, and no bit of any result.
    void set_recompute(Recompute what) { recompute_ = what; }

private:
    struct Block {
        nn::RmsNorm attention_norm;
        nn::Attention attention;
        nn::RmsNorm mlp_norm;
        nn::SwiGlu mlp;

        std::string name;  // for profilers

        Variable operator()(const Variable& x, const nn::Packing& packing, Recompute recompute) const;
    };

    /// Tells the observer that a forward pass goes on from `unit` to the next, or is over with the `last`, and marks
    /// the place for the way back.
    Variable next_unit(const Variable& x, std::size_t unit, bool last) const;
    /// The first blocks; `over`: no unit is visited behind them.
    Variable run_blocks(const Batch& batch, std::size_t blocks, bool over) const;
    using EachMatrix = std::function<void(const std::string& name, nn::Linear& linear)>;
    /// Calls f with every linear layer of the blocks and the begin of its parameters' names.
    void each_linear(const EachMatrix& f);

    Config config_;
    std::optional<nn::Embedding> embedding_;
    std::vector<Block> blocks_;
    std::optional<nn::RmsNorm> norm_;
    std::optional<nn::Linear> head_;  // absent when tied
    nn::UnitObserver* observer_ = nullptr;
    Recompute recompute_ = Recompute::norm;
    std::optional<LoraConfig> lora_;
    std::uint64_t dropout_seed_ = 0;
};

}  // namespace uipe::llama
