// Products of a few rows with a matrix whose rows are the outputs' weights, as in decoding: each weight is read once
// and used once or twice, so what counts is to read it at the memory's full speed.
#include "tensor/cpu/cpu.h"
#include "tensor/cpu/simd.h"

namespace uipe::tensor::cpu {
namespace {

constexpr int streams = 4;  // rows of b that are read side by side

/// y[i * n] for m rows of a: the products of a[m,k] with `count` rows of b.
template <int m, class Y, class T>
void dot_rows(Y* y, std::int64_t n, const T* a, const T* b, std::int64_t k, int count) {
    using A = acc_t<T>;
    Vector<A> sums[m][streams] = {};
    each_vector<A>(0, k, [&](auto at) {
        for (int s = 0; s < streams; ++s) {
            const auto weights = at.load(b + (s < count ? s : 0) * k);
            for (int i = 0; i < m; ++i) sums[i][s] += at.load(a + i * k) * weights;
        }
    });
    for (int i = 0; i < m; ++i)
        for (int s = 0; s < count; ++s) y[i * n + s] = static_cast<Y>(sum_of(sums[i][s]));
}

template <int m, class Y, class T>
void product(Y* y, const T* a, const T* b, std::int64_t n, std::int64_t k) {
    const std::int64_t groups = (n + streams - 1) / streams;
    const std::int64_t grain = std::max<std::int64_t>(1, 16384 / k);  // below this a second thread costs more
    parallel_for(groups, grain, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t j = begin * streams; j < std::min(n, end * streams); j += streams)
            dot_rows<m>(y + j, n, a, b + j * k, k, static_cast<int>(std::min<std::int64_t>(streams, n - j)));
    });
}

}  // namespace

void matmul_few_rows(const Tensor& y, const Tensor& a, const Tensor& b) {
    const std::int64_t n = y.dim(1);
    const std::int64_t k = a.dim(1);
    with_float(a.dtype(), [&]<class T>() {
        with_float(y.dtype(), [&]<class Y>() {
            for (std::int64_t i = 0; i < y.dim(0); i += 2) {
                Y* out = y.data<Y>() + i * n;
                const T* in = a.data<T>() + i * k;
                if (i + 1 < y.dim(0))
                    product<2>(out, in, b.data<T>(), n, k);
                else
                    product<1>(out, in, b.data<T>(), n, k);
            }
        });
    });
}

}  // namespace uipe::tensor::cpu
