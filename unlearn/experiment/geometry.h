// Where unlearning goes, seen from the gradients of what is to be forgotten and of what is related to it: equations 2
// to 6 of the UIPE paper (arXiv 2503.04693).
#pragma once

#include <map>
#include <span>
#include <string>

#include "llama/model.h"

namespace uipe::unlearn {

/// The gradient of the mean NLL of the rows' target tokens (nats) with respect to every trainable parameter, by name,
/// in the accumulator's type; `rows_a_pass` bounds memory, and changes no more than the rounding.
llama::StateDict gradient(const llama::Llama& model, std::span<const llama::Sequence> rows,
                          std::size_t rows_a_pass = 32);

/// The sum of a·b over all tensors, in f64 and a fixed order. Error unless both hold the same names and shapes.
double dot(const llama::StateDict& a, const llama::StateDict& b);
double norm(const llama::StateDict& a);
/// a·b / (|a| |b|); 0 where one of them is 0.
double cosine(const llama::StateDict& a, const llama::StateDict& b);
/// The same within each layer: "embedding", "layer  0", …, "layer 10", …, "head" (with the last norm). Numbers have the
/// width of two digits, so that names sort as layers do.
std::map<std::string, double> cosine_by_layer(const llama::StateDict& a, const llama::StateDict& b);

/// θ - θ_0 in the accumulator's type.
llama::StateDict update(const llama::StateDict& theta, const llama::StateDict& initial);

/// How far an update goes along a gradient, u·g / |g|. Above 0: along the gradient of a loss, so that it grows: what
/// the loss belongs to is forgotten (equation 4). UIPE multiplies it by 1 + α (equation 6).
double projection(const llama::StateDict& update, const llama::StateDict& gradient);

}  // namespace uipe::unlearn
