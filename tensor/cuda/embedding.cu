// The embedding table. Forward: a block a row. Backward: the host, which holds the tokens, lists the rows of each
// distinct token in their order; a block takes a token and a stretch of columns, and adds its rows one after another:
// no atomics, and the bits of a plain loop over the rows.
#include <algorithm>
#include <numeric>
#include <vector>

#include "tensor/cuda/floats.h"

namespace uipe::tensor::cuda {
namespace {

constexpr int most_threads = 256;

template <int n, class T>
__global__ void embedding_kernel(T* y, const T* table, const std::int32_t* tokens, int C) {
    const std::int64_t row = dev::block_x();
    const std::int64_t token = tokens[row];
    for (int c = dev::thread() * n; c < C; c += dev::threads() * n) move<n>(y + row * C + c, table + token * C + c);
}

/// lists: token[count], then begin[count + 1] of each token's rows among rows[T], which come last.
template <int n, class T>
__global__ void embedding_backward_kernel(float* dtable, const T* dy, const std::int32_t* lists, int count, int C) {
    const std::int32_t* begin = lists + count;
    const std::int32_t* rows = begin + count + 1;
    const int b = dev::block_x();
    const int c = (dev::block_y() * dev::threads() + dev::thread()) * n;
    if (c >= C) return;
    float* out = dtable + static_cast<std::int64_t>(lists[b]) * C + c;
    float sum[n];
    read(sum, out);
    for (int i = begin[b]; i < begin[b + 1]; ++i) {
        float d[n];
        read(d, dy + static_cast<std::int64_t>(rows[i]) * C + c);
        for (int j = 0; j < n; ++j) sum[j] += d[j];
    }
    write(out, sum);
}

/// The lists of embedding_backward_kernel, and the count of distinct tokens.
std::pair<Tensor, std::int64_t> rows_by_token(const Tensor& tokens) {
    const std::int32_t* token = tokens.data<std::int32_t>();
    std::vector<std::int32_t> rows(static_cast<std::size_t>(tokens.numel()));
    std::iota(rows.begin(), rows.end(), 0);
    std::stable_sort(rows.begin(), rows.end(), [token](std::int32_t a, std::int32_t b) { return token[a] < token[b]; });
    std::vector<std::int32_t> lists;
    std::vector<std::int32_t> begins;
    for (std::size_t i = 0; i < rows.size(); ++i)
        if (i == 0 || token[rows[i]] != token[rows[i - 1]]) {
            lists.push_back(token[rows[i]]);
            begins.push_back(static_cast<std::int32_t>(i));
        }
    const auto count = static_cast<std::int64_t>(lists.size());
    begins.push_back(static_cast<std::int32_t>(rows.size()));
    lists.insert(lists.end(), begins.begin(), begins.end());
    lists.insert(lists.end(), rows.begin(), rows.end());
    return {Tensor::from(lists), count};
}

}  // namespace

void embedding(const Tensor& y, const Tensor& table, const Tensor& tokens) {
    const auto C = static_cast<int>(table.dim(1));
    with_float(y.dtype(), [&]<class T>() {
        with_width<T>(C % dev::Vec<T>::size == 0 && aligned(y, table), [&]<int n>() {
            launch(embedding_kernel<n, T>, {.grid = {tokens.numel()}, .threads = threads_for(C / n, most_threads)},
                   at<T>(y), at<T>(table), indices(tokens), C);
        });
    });
}

void embedding_backward(const Tensor& dtable, const Tensor& dy, const Tensor& tokens) {
    const auto [lists, count] = rows_by_token(tokens);
    const auto C = static_cast<int>(dy.dim(1));
    with_float(dy.dtype(), [&, &lists = lists, count = count]<class T>() {
        with_width<T>(C % dev::Vec<T>::size == 0 && aligned(dtable, dy), [&]<int n>() {
            const int threads = threads_for(C / n, most_threads);
            launch(embedding_backward_kernel<n, T>,
                   {.grid = {count, ceil_div(C, std::int64_t{threads} * n)}, .threads = threads}, at<float>(dtable),
                   at<T>(dy), indices(lists), static_cast<int>(count), C);
        });
    });
}

}  // namespace uipe::tensor::cuda
