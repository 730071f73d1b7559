#include "eval/token_metrics.h"

#include <zlib.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "tensor/base/error.h"

namespace uipe::eval {
namespace {

Tokens without_end(Tokens tokens) { return tokens.first(tokens.empty() ? 0 : tokens.size() - 1); }

double ratio(std::ptrdiff_t part, std::size_t whole) {
    return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

/// Minus the mean of the lowest 40 per cent of of(token).
template <class Of>
double lowest(Tokens tokens, const Of& of) {
    std::vector<double> values;
    for (const llama::TokenScore& token : without_end(tokens)) values.push_back(of(token));
    if (values.empty()) return 0;
    std::sort(values.begin(), values.end());
    values.resize(std::max<std::size_t>(1, values.size() * 2 / 5));
    double sum = 0;
    for (const double value : values) sum += value;
    return -sum / static_cast<double>(values.size());
}

std::size_t compressed_size(std::string_view text) {
    uLongf size = compressBound(static_cast<uLong>(text.size()));
    std::vector<Bytef> out(size);
    const int status =
        compress(out.data(), &size, reinterpret_cast<const Bytef*>(text.data()), static_cast<uLong>(text.size()));
    require(status == Z_OK, "zlib could not compress ", text.size(), " bytes: status ", status);
    return size;
}

}  // namespace

double exact_memorization(Tokens tokens) {
    tokens = without_end(tokens);
    return ratio(std::count_if(tokens.begin(), tokens.end(), [](const auto& token) { return token.likeliest; }),
                 tokens.size());
}

double extraction_strength(Tokens tokens) {
    tokens = without_end(tokens);
    const auto wrong = std::find_if(tokens.rbegin(), tokens.rend(), [](const auto& token) { return !token.likeliest; });
    return ratio(tokens.empty() ? 0 : std::max<std::ptrdiff_t>(1, wrong - tokens.rbegin()), tokens.size());
}

double mia_loss(Tokens tokens) {
    require(!tokens.empty(), "mia_loss: an answer without tokens");
    double sum = 0;
    for (const llama::TokenScore& token : tokens) sum += token.logp;
    return -sum / static_cast<double>(tokens.size());
}

double mia_zlib(Tokens tokens, std::string_view text) {
    return mia_loss(tokens) / static_cast<double>(compressed_size(text));
}

double mia_min_k(Tokens tokens) {
    return lowest(tokens, [](const auto& token) { return token.logp; });
}

double mia_min_k_plus_plus(Tokens tokens) {
    return lowest(tokens, [](const auto& token) {
        return (token.logp - token.mean) / std::sqrt(std::max(token.variance, 1e-6));
    });
}

}  // namespace uipe::eval
