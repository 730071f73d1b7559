// Products of a few rows with a matrix whose rows are the outputs' weights, as in decoding: each weight is read once
// and used once or twice, so what counts is to read it at the memory's full speed.
#include "tensor/cpu/cpu.h"
#include "tensor/cpu/simd.h"

namespace uipe::tensor::cpu {
namespace {

/// y[i * n] for m rows of a: their products with one row of b. Rows of b follow each other in memory, and reading them
/// one after the other, not side by side, is what the prefetcher likes.
template <int m, class Y, class T>
void dot_row(Y* y, std::int64_t n, const acc_t<T>* a, const T* b, std::int64_t k) {
    using A = acc_t<T>;
    constexpr int chains = 4;  // sums that do not wait for one another
    constexpr std::int64_t step = chains * lanes<A>;
    Vector<A> sums[m][chains] = {};
    std::int64_t l = 0;
    for (; l + step <= k; l += step)
        for (int c = 0; c < chains; ++c) {
            const auto weights = load(b + l + c * lanes<A>);
            for (int i = 0; i < m; ++i) sums[i][c] += load(a + i * k + l + c * lanes<A>) * weights;
        }
    each_vector<A>(l, k, [&](auto at) {
        for (int i = 0; i < m; ++i) sums[i][0] += at.load(a + i * k) * at.load(b);
    });
    for (int i = 0; i < m; ++i)
        y[i * n] = static_cast<Y>(sum_of(Vector<A>((sums[i][0] + sums[i][1]) + (sums[i][2] + sums[i][3]))));
}

template <int m, class Y, class T>
void product(Y* y, const acc_t<T>* a, const T* b, std::int64_t n, std::int64_t k) {
    if (n * k < 65536 || num_threads() == 1) {  // below this a second thread costs more
        for (std::int64_t j = 0; j < n; ++j) dot_row<m>(y + j, n, a, b + j * k, k);
        return;
    }
    // Long runs of rows first, then ever shorter ones: the memory does not serve all threads alike.
#pragma omp parallel for schedule(guided, 16)
    for (std::int64_t j = 0; j < n; ++j) dot_row<m>(y + j, n, a, b + j * k, k);
}

}  // namespace

void matmul_few_rows(const Tensor& y, const Tensor& a, const Tensor& b) {
    const std::int64_t n = y.dim(1);
    const std::int64_t k = a.dim(1);
    const Tensor wide = a.to(accumulator_of(a.dtype()));  // once, not for each row of b
    if (y.device().kind == Device::Kind::meta) return;
    with_float(a.dtype(), [&]<class T>() {
        with_float(y.dtype(), [&]<class Y>() {
            if (y.dim(0) == 1)
                product<1>(y.data<Y>(), wide.data<acc_t<T>>(), b.data<T>(), n, k);
            else
                product<2>(y.data<Y>(), wide.data<acc_t<T>>(), b.data<T>(), n, k);
        });
    });
}

}  // namespace uipe::tensor::cpu
