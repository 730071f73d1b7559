// The LM head of scoring: log-probabilities of given tokens, without gradients.
#pragma once

#include <vector>

#include "tensor/packed_matrix.h"

namespace uipe::tensor {

/// token_logprob for many batches with one w[V,C]: w is packed once, and the logits of some hundred rows and a slice of
/// the vocabulary go no further than the caches; each row keeps its largest logit and its sum of exponentials (Milakov
/// & Gimelshein 2018, algorithm 3), and where it is looked at closely their moments. On a GPU it is token_logprob.
class ScoringHead {
public:
    /// `pack` as for PackedMatrix.
    explicit ScoringHead(const Tensor& w, bool pack = true);

    /// On the host: logp[T] (acc) = log softmax(hidden[T,C] w^T)[targets[t]]; 0 where targets[t] < 0, and those rows
    /// cost nothing.
    Tensor logprob(const Tensor& hidden, const Tensor& targets) const { return score(hidden, targets, false).logp; }

    struct Scores {
        Tensor logp, argmax, moments;
    };
    /// All that token_logprob gives for each row, on the host.
    Scores look_closely(const Tensor& hidden, const Tensor& targets) const { return score(hidden, targets, true); }

private:
    Scores score(const Tensor& hidden, const Tensor& targets, bool closely) const;

    Tensor w_;
    std::vector<PackedMatrix> slices_;
};

}  // namespace uipe::tensor
