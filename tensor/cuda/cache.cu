// Rows written into the key/value cache, a block a row.
#include <algorithm>
#include <numeric>
#include <vector>

#include "tensor/cuda/floats.h"

namespace uipe::tensor::cuda {
namespace {

constexpr int most_threads = 256;

/// Row `rows[b]`, or b without a list.
template <int n, class T>
__global__ void cache_write_kernel(T* cache, const T* x, const std::int32_t* slots, const std::int32_t* positions,
                                   const std::int32_t* rows, std::int64_t capacity, int width) {
    const std::int64_t row = rows != nullptr ? rows[dev::block_x()] : dev::block_x();
    T* out = cache + (slots[row] * capacity + positions[row]) * width;
    for (int c = dev::thread() * n; c < width; c += dev::threads() * n) move<n>(out + c, x + row * width + c);
}

/// The last row for each place; undefined where no two rows have the same, as in generation.
Tensor last_rows(const Tensor& slots, const Tensor& positions) {
    const std::int32_t* slot = slots.data<std::int32_t>();
    const std::int32_t* position = positions.data<std::int32_t>();
    const auto place = [&](std::int64_t t) { return std::pair(slot[t], position[t]); };
    bool rising = true;
    for (std::int64_t t = 1; t < slots.numel(); ++t) rising = rising && place(t - 1) < place(t);
    if (rising) return {};
    std::vector<std::int32_t> order(static_cast<std::size_t>(slots.numel()));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) { return place(a) < place(b); });
    std::vector<std::int32_t> rows;
    for (std::size_t i = 0; i < order.size(); ++i)
        if (i + 1 == order.size() || place(order[i]) != place(order[i + 1])) rows.push_back(order[i]);
    return rows.size() == order.size() ? Tensor() : Tensor::from(rows);
}

}  // namespace

void cache_write(const Tensor& cache, const Tensor& x, const Tensor& slots, const Tensor& positions) {
    const Tensor rows = last_rows(slots, positions);
    const auto width = static_cast<int>(x.dim(1));
    with_float(x.dtype(), [&]<class T>() {
        with_width<T>(width % dev::Vec<T>::size == 0 && aligned(cache, x), [&]<int n>() {
            launch(
                cache_write_kernel<n, T>,
                {.grid = {rows.defined() ? rows.numel() : x.dim(0)}, .threads = threads_for(width / n, most_threads)},
                at<T>(cache), at<T>(x), indices(slots), indices(positions), rows.defined() ? indices(rows) : nullptr,
                cache.dim(1), width);
        });
    });
}

}  // namespace uipe::tensor::cuda
