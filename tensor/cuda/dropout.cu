// Dropout: a row of blocks a row of x, a thread for 16 bytes, which takes them four elements to a block of random bits.
#include "tensor/dropout.h"

#include "tensor/cuda/floats.h"

namespace uipe::tensor::cuda {
namespace {

constexpr int most_threads = 256;

template <int n, bool adds, class T>
__global__ void dropout_kernel(T* y, const T* x, const std::int32_t* places, Dropout d, int C) {
    const int c = (static_cast<int>(dev::block_y()) * dev::threads() + dev::thread()) * n;
    if (c >= C) return;
    const std::int64_t at = static_cast<std::int64_t>(dev::block_x()) * C + c;
    const auto factor = static_cast<float>(d.factor);
    const std::uint64_t block = dropout_block(places[dev::block_x()], C, c / 4);
    float v[n];
    read(v, x + at);
    for (int i = 0; i < n; i += 4) {
        const auto bits = philox(d.seed, d.stream, block + static_cast<std::uint64_t>(i / 4));
        for (int j = i; j < n && j < i + 4; ++j)
            v[j] *= bits[static_cast<std::size_t>((c + j) % 4)] >= d.least ? factor : 0.0F;
    }
    write_or_add<adds>(y + at, v);
}

}  // namespace

void dropout(const Tensor& y, const Tensor& x, const Tensor& places, double p, std::uint64_t seed, std::uint64_t stream,
             bool accumulate) {
    const auto C = static_cast<int>(x.dim(1));
    with_float(x.dtype(), [&]<class T>() {
        with_flag(accumulate, [&]<bool adds>() {
            with_width<T>(C % dev::Vec<T>::size == 0 && aligned(y, x), [&]<int n>() {
                const int threads = threads_for(C / n, most_threads);
                launch(dropout_kernel<n, adds, T>, {.grid = {x.dim(0), ceil_div(C, n * threads)}, .threads = threads},
                       at<T>(y), at<T>(x), indices(places), Dropout(p, seed, stream), C);
            });
        });
    });
}

}  // namespace uipe::tensor::cuda
