// Sequences of given lengths and random operands of attention, for its tests on every device.
#pragma once

#include "tests/tensor/reference.h"

namespace uipe::tensor::test {

struct Layout {
    std::vector<std::int32_t> lengths;  // keys of each sequence
    std::int64_t H, K, D;
    std::vector<std::int32_t> queries = {};  // of each sequence, for its last keys; empty: as many as keys
};

inline std::string name(const Layout& s) {
    std::string text = cat("H ", s.H, " K ", s.K, " D ", s.D, " lengths");
    for (const std::int32_t n : s.lengths) text += cat(" ", n);
    if (!s.queries.empty()) text += " queries";
    for (const std::int32_t n : s.queries) text += cat(" ", n);
    return text;
}

/// Inputs of one layout on the host, with the gradient of the output.
struct Inputs {
    std::int64_t T, S, H, K, D;
    Tensor cu, cu_keys, q, k, v, dout;

    Inputs(const Layout& s, DType dtype)
        : H(s.H), K(s.K), D(s.D), cu(packed(s.queries.empty() ? s.lengths : s.queries)), cu_keys(packed(s.lengths)) {
        T = cu.to_vector<std::int32_t>().back();
        S = cu_keys.to_vector<std::int32_t>().back();
        q = normal({T, H * D}, dtype);
        k = normal({S, K * D}, dtype);
        v = normal({S, K * D}, dtype);
        dout = normal({T, H * D}, dtype);
    }
};

}  // namespace uipe::tensor::test
