// RMSNorm, with or without the residual addition before it. Forward: a block a row, which it reads twice, the second
// time from its cache (of a sum, what each thread itself wrote the first time). Backward: a block for a group
// of rows; each thread keeps the sums of dw for its columns in shared memory, the block leaves them in a workspace, and
// a second kernel adds the groups' sums in their order. How rows are grouped depends on their number alone.
#include "tensor/cuda/floats.h"
#include "tensor/workspace.h"

namespace uipe::tensor::cuda {
namespace {

constexpr int most_threads = 256;
constexpr int most_warps = most_threads / dev::warp_size;
constexpr int group_warps = 16;  // of a block that adds groups' sums

/// y and rstd of x, or, where `adds`, of h = x + r, which is written too.
template <int n, bool adds, class T>
__global__ void rmsnorm_kernel(T* y, float* rstd, T* h, const T* x, const T* r, const T* w, int C, float eps) {
    DEV_SHARED(float, buffer, most_warps);
    const std::int64_t row = dev::block_x();
    x += row * C;
    y += row * C;
    float squares = 0.0F;
    for (int c = dev::thread() * n; c < C; c += dev::threads() * n) {
        float v[n];
        read(v, x + c);
        if constexpr (adds) {
            float other[n];
            read(other, r + row * C + c);
            for (int i = 0; i < n; ++i) v[i] = dev::to_float(dev::to<T>(v[i] + other[i]));
            write(h + row * C + c, v);
        }
        for (int i = 0; i < n; ++i) squares += v[i] * v[i];
    }
    if constexpr (adds) x = h + row * C;
    squares = dev::block_sum(squares, buffer);
    const float scale = 1.0F / dev::sqrt(squares / static_cast<float>(C) + eps);
    if (dev::thread() == 0) rstd[row] = scale;
    for (int c = dev::thread() * n; c < C; c += dev::threads() * n) {
        float v[n], weight[n];
        read(v, x + c);
        read(weight, w + c);
        for (int i = 0; i < n; ++i) v[i] = v[i] * scale * weight[i];
        write(y + c, v);
    }
}

/// dx of the rows of a group, and partial[group,C] = the sum of dy x rstd over them. Either may be nullptr.
template <int n, bool adds, class T>
__global__ void rmsnorm_backward_kernel(T* dx, float* partial, const T* dy, const T* x, const T* w, const float* rstd,
                                        std::int64_t rows, std::int64_t group, int C) {
    DEV_SHARED(float, buffer, most_warps);
    DEV_DYNAMIC_SHARED(shared);
    auto* sums = reinterpret_cast<float*>(shared);  // [C]; a thread sees its own columns alone
    const int first = dev::thread() * n;
    const int step = dev::threads() * n;
    const float zeros[n] = {};
    if (partial != nullptr)
        for (int c = first; c < C; c += step) write(sums + c, zeros);
    const std::int64_t begin = dev::block_x() * group;
    const std::int64_t end = dev::min_of(begin + group, rows);
    for (std::int64_t row = begin; row < end; ++row) {
        const T* row_x = x + row * C;
        const T* row_dy = dy + row * C;
        const float r = rstd[row];
        float dot = 0.0F;
        for (int c = first; c < C; c += step) {
            float g[n], v[n], scale[n];
            read(g, row_dy + c);
            read(v, row_x + c);
            read(scale, w + c);
            for (int i = 0; i < n; ++i) {
                dot += g[i] * scale[i] * v[i];
                g[i] *= v[i] * r;
            }
            if (partial != nullptr) write_or_add<true>(sums + c, g);
        }
        if (dx == nullptr) continue;
        const float shift = dev::block_sum(dot, buffer) * r * r * r / static_cast<float>(C);
        for (int c = first; c < C; c += step) {
            float g[n], v[n], scale[n];
            read(g, row_dy + c);
            read(v, row_x + c);
            read(scale, w + c);
            for (int i = 0; i < n; ++i) g[i] = g[i] * scale[i] * r - v[i] * shift;
            write_or_add<adds>(dx + row * C + c, g);
        }
    }
    if (partial == nullptr) return;
    for (int c = first; c < C; c += step) {
        float sum[n];
        read(sum, sums + c);
        write(partial + dev::block_x() * static_cast<std::int64_t>(C) + c, sum);
    }
}

/// dw[C] += the sum of partial[groups,C]: a block for 32 columns, each of its warps for every 16th group.
__global__ void add_groups(float* dw, const float* partial, int groups, int C) {
    DEV_SHARED(float, sums, group_warps* dev::warp_size);
    const int c = dev::block_x() * dev::warp_size + dev::lane();
    float sum = 0.0F;
    if (c < C)
        for (int g = dev::warp(); g < groups; g += group_warps) sum += partial[static_cast<std::int64_t>(g) * C + c];
    sums[dev::thread()] = sum;
    dev::sync();
    if (dev::warp() > 0 || c >= C) return;
    float total = 0.0F;
    for (int i = 0; i < group_warps; ++i) total += sums[i * dev::warp_size + dev::lane()];
    dw[c] += total;
}

/// Both ops; `adds` says whether there are h and r.
template <bool adds>
void normalise(const Tensor& h, const Tensor& y, const Tensor& rstd, const Tensor& x, const Tensor& r, const Tensor& w,
               double eps) {
    const auto C = static_cast<int>(x.dim(1));
    with_float(x.dtype(), [&]<class T>() {
        with_width<T>(C % dev::Vec<T>::size == 0 && aligned(h, y, x, r, w), [&]<int n>() {
            launch(rmsnorm_kernel<n, adds, T>, {.grid = {x.dim(0)}, .threads = threads_for(C / n, most_threads)},
                   at<T>(y), at<float>(rstd), at_or_null<T>(h), at<T>(x), at_or_null<T>(r), at<T>(w), C,
                   static_cast<float>(eps));
        });
    });
}

}  // namespace

void rmsnorm(const Tensor& y, const Tensor& rstd, const Tensor& x, const Tensor& w, double eps) {
    normalise<false>({}, y, rstd, x, {}, w, eps);
}

void add_rmsnorm(const Tensor& h, const Tensor& y, const Tensor& rstd, const Tensor& x, const Tensor& r,
                 const Tensor& w, double eps) {
    normalise<true>(h, y, rstd, x, r, w, eps);
}

void rmsnorm_backward(const Tensor& dx, const Tensor& dw, const Tensor& dy, const Tensor& x, const Tensor& w,
                      const Tensor& rstd, bool accumulate_dx) {
    const std::int64_t rows = x.dim(0);
    if (rows == 0 || (!dx.defined() && !dw.defined())) return;
    const auto C = static_cast<int>(x.dim(1));
    const std::int64_t group = norm_group(rows, Device::Kind::cuda);
    const std::int64_t groups = ceil_div(rows, group);
    const Tensor partial = dw.defined() ? Tensor::empty({groups, C}, DType::f32, x.device()) : Tensor();
    with_float(x.dtype(), [&]<class T>() {
        with_flag(accumulate_dx, [&]<bool adds>() {
            with_width<T>(C % dev::Vec<T>::size == 0 && aligned(dx, dy, x, w), [&]<int n>() {
                launch(rmsnorm_backward_kernel<n, adds, T>,
                       {.grid = {groups},
                        .threads = threads_for(C / n, most_threads),
                        .shared = dw.defined() ? sizeof(float) * static_cast<std::size_t>(C) : 0},
                       at_or_null<T>(dx), at_or_null<float>(partial), at<T>(dy), at<T>(x), at<T>(w), at<float>(rstd),
                       rows, group, C);
            });
        });
    });
    if (dw.defined())
        launch(add_groups, {.grid = {ceil_div(C, dev::warp_size)}, .threads = group_warps * dev::warp_size},
               at<float>(dw), at<float>(partial), static_cast<int>(groups), C);
}

}  // namespace uipe::tensor::cuda
