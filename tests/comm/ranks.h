// What the tests of several ranks share. Every rank knows every other's inputs, for they are drawn from the rank's
// number, and so computes for itself what must come out.
#pragma once

#include "tensor/comm/comm.h"
#include "tests/tensor/reference.h"

namespace uipe::tensor::test {

/// Where the tensors are.
inline Device& device() {
    static Device where;
    return where;
}
inline bool on_cpu() { return device().kind == Device::Kind::cpu; }

/// The types that ranks exchange there.
inline std::vector<DType> types() {
    if (!on_cpu()) return {DType::f32, DType::bf16};
    return {DType::f64, DType::f32, DType::bf16};
}

/// What rank `rank` puts in: the same in every process, and other numbers for each `draw`.
inline Tensor input(int rank, std::uint64_t draw, std::int64_t n, DType dtype) {
    Random random(1234, draw * 64 + static_cast<std::uint64_t>(rank));
    std::vector<double> x(static_cast<std::size_t>(n));
    for (double& v : x) v = random.normal();
    return Tensor::from(x).to(dtype);
}

/// All ranks' inputs, one behind the other.
inline Tensor gathered(int ranks, std::uint64_t draw, std::int64_t n, DType dtype) {
    Tensor all = Tensor::empty({ranks * n}, dtype);
    for (int r = 0; r < ranks; ++r) copy(all.rows(r * n, (r + 1) * n), input(r, draw, n, dtype));
    return all;
}

/// Their sum in the order of ranks, in the accumulator's type and rounded once: the bits of a sum in fixed order.
inline Tensor sum_in_order(int ranks, std::uint64_t draw, std::int64_t n, DType dtype) {
    const DType wide = accumulator_of(dtype);
    const Tensor sum = input(0, draw, n, dtype).to(wide).clone();
    for (int r = 1; r < ranks; ++r) axpby(sum, 1.0, input(r, draw, n, dtype).to(wide), 1.0);
    return sum.to(dtype);
}

/// Their sum in f64.
inline std::vector<Want> sum_wanted(int ranks, std::uint64_t draw, std::int64_t n, DType dtype) {
    std::vector<Want> sum(static_cast<std::size_t>(n));
    for (int r = 0; r < ranks; ++r) {
        const std::vector<double> x = values(input(r, draw, n, dtype));
        for (std::size_t i = 0; i < sum.size(); ++i) sum[i].add(x[i]);
    }
    return sum;
}
inline std::vector<Want> part(const std::vector<Want>& want, std::int64_t begin, std::int64_t n) {
    return {want.begin() + begin, want.begin() + begin + n};
}

/// A copy on the device, a poisoned tensor there, and a copy on the host.
inline Tensor there(const Tensor& t) { return on_cpu() ? t.clone() : t.to(device()); }
inline Tensor poison_there(std::int64_t n, DType dtype) { return poisoned({n}, dtype).to(device()); }
inline Tensor here(const Tensor& t) { return t.to(Device{}); }

}  // namespace uipe::tensor::test
