// Sums. Over a whole tensor: up to 1024 blocks each add every 1024th piece in f64, then one block adds their sums. How
// the work is cut depends on the size alone, so every chip gives the same bits. Over segments: a warp for each.
#include <limits>

#include "tensor/cuda/floats.h"

namespace uipe::tensor::cuda {
namespace {

constexpr int block = 256;
constexpr int warps = block / dev::warp_size;
constexpr std::int64_t most_blocks = 1024;

struct Value {
    __device__ double operator()(float x) const { return x; }
};
struct Square {
    __device__ double operator()(float x) const { return static_cast<double>(x) * x; }
};
struct NotFinite {
    __device__ double operator()(float x) const {
        constexpr float most = std::numeric_limits<float>::max();
        return -most <= x && x <= most ? 0.0 : 1.0;
    }
};

template <int n, class Term, class T>
__global__ void sum_pieces(double* partial, const T* x, std::int64_t count) {
    DEV_SHARED(double, buffer, warps);
    const std::int64_t stride = static_cast<std::int64_t>(dev::blocks_x()) * block * n;
    std::int64_t at = (static_cast<std::int64_t>(dev::block_x()) * block + dev::thread()) * n;
    double sum = 0.0;
    for (; at + n <= count; at += stride) {
        float v[n];
        read(v, x + at);
        for (int i = 0; i < n; ++i) sum += Term{}(v[i]);
    }
    for (; at < count; ++at) sum += Term{}(dev::to_float(x[at]));  // one thread's: the last elements
    sum = dev::block_sum(sum, buffer);
    if (dev::thread() == 0) partial[dev::block_x()] = sum;
}

/// y = the sum of n partial sums, added to y when `adds`.
template <bool adds, class Y>
__global__ void sum_partial(Y* y, const double* partial, int n) {
    DEV_SHARED(double, buffer, warps);
    double sum = 0.0;
    for (int i = dev::thread(); i < n; i += block) sum += partial[i];
    sum = dev::block_sum(sum, buffer);
    if (dev::thread() != 0) return;
    if constexpr (std::is_same_v<Y, double>)
        *y = adds ? *y + sum : sum;
    else
        *y = dev::to<Y>(static_cast<float>(sum));
}

template <class Term, bool adds, class Y>
void add_up(Y* y, const Tensor& x) {
    with_float(x.dtype(), [&]<class T>() {
        with_width<T>(aligned(x), [&]<int n>() {
            // Four pieces a thread at least.
            const std::int64_t enough = ceil_div(x.numel(), std::int64_t{4} * block * n);
            const std::int64_t blocks = enough < most_blocks ? enough : most_blocks;
            const Tensor partial = Tensor::empty({blocks}, DType::f64, x.device());
            launch(sum_pieces<n, Term, T>, {.grid = {blocks}, .threads = block}, at<double>(partial), at<T>(x),
                   x.numel());
            launch(sum_partial<adds, Y>, {.grid = {1}, .threads = block}, y, at<double>(partial),
                   static_cast<int>(blocks));
        });
    });
}

template <class T>
__global__ void segment_sum_kernel(T* y, const T* x, const std::int32_t* cu, std::int64_t B) {
    const std::int64_t b = static_cast<std::int64_t>(dev::block_x()) * warps + dev::warp();
    double sum = 0.0;
    if (b < B)
        for (int t = cu[b] + dev::lane(); t < cu[b + 1]; t += dev::warp_size) sum += dev::to_float(x[t]);
    sum = dev::warp_sum(sum);
    if (b < B && dev::lane() == 0) y[b] = dev::to<T>(static_cast<float>(sum));
}

template <bool adds, class T>
__global__ void segment_sum_backward_kernel(T* dx, const T* dy, const std::int32_t* cu, std::int64_t B) {
    const std::int64_t b = static_cast<std::int64_t>(dev::block_x()) * warps + dev::warp();
    if (b >= B) return;
    const float d[1] = {dev::to_float(dy[b])};
    for (int t = cu[b] + dev::lane(); t < cu[b + 1]; t += dev::warp_size) write_or_add<adds>(dx + t, d);
}

/// d = the squared distance of a row of x from that of y, a block each; rows of y are `stride` apart.
template <int n, class T>
__global__ void squared_distance_kernel(float* d, const T* x, const T* y, std::int64_t stride, std::int64_t C) {
    DEV_SHARED(float, buffer, warps);
    x += dev::block_x() * C;
    y += dev::block_x() * stride;
    float sum = 0.0F;
    for (std::int64_t c = dev::thread() * n; c < C; c += block * n) {
        float p[n], q[n];
        read(p, x + c);
        read(q, y + c);
        for (int i = 0; i < n; ++i) sum += (p[i] - q[i]) * (p[i] - q[i]);
    }
    sum = dev::block_sum(sum, buffer);
    if (dev::thread() == 0) d[dev::block_x()] = sum;
}

template <int n, bool adds, class T>
__global__ void squared_distance_backward_kernel(T* dx, const float* dd, const T* x, const T* y, std::int64_t stride,
                                                 std::int64_t C) {
    x += dev::block_x() * C;
    dx += dev::block_x() * C;
    y += dev::block_x() * stride;
    const float slope = 2.0F * dd[dev::block_x()];
    for (std::int64_t c = dev::thread() * n; c < C; c += block * n) {
        float p[n], q[n];
        read(p, x + c);
        read(q, y + c);
        for (int i = 0; i < n; ++i) p[i] = slope * (p[i] - q[i]);
        write_or_add<adds>(dx + c, p);
    }
}

}  // namespace

void sum(const Tensor& y, const Tensor& x) {
    if (y.dtype() == DType::f64) return add_up<Value, false>(at<double>(y), x);
    with_float(y.dtype(), [&]<class Y>() { add_up<Value, false>(at<Y>(y), x); });
}

void add_squares(const Tensor& y, const Tensor& x) { add_up<Square, true>(at<double>(y), x); }

bool all_finite(const Tensor& x) {
    const Tensor wrong = Tensor::empty({1}, DType::f64, x.device());
    add_up<NotFinite, false>(at<double>(wrong), x);
    return wrong.item() == 0.0;
}

void squared_distance(const Tensor& d, const Tensor& x, const Tensor& y) {
    const std::int64_t C = x.dim(1);
    with_float(x.dtype(), [&]<class T>() {
        with_width<T>(C % dev::Vec<T>::size == 0 && aligned(x, y), [&]<int n>() {
            launch(squared_distance_kernel<n, T>, {.grid = {x.dim(0)}, .threads = block}, at<float>(d), at<T>(x),
                   at<T>(y), y.dim(0) == 1 ? 0 : C, C);
        });
    });
}

void squared_distance_backward(const Tensor& dx, const Tensor& dd, const Tensor& x, const Tensor& y, bool accumulate) {
    const std::int64_t C = x.dim(1);
    with_float(x.dtype(), [&]<class T>() {
        with_width<T>(C % dev::Vec<T>::size == 0 && aligned(dx, x, y), [&]<int n>() {
            with_flag(accumulate, [&]<bool adds>() {
                launch(squared_distance_backward_kernel<n, adds, T>, {.grid = {x.dim(0)}, .threads = block}, at<T>(dx),
                       at<float>(dd), at<T>(x), at<T>(y), y.dim(0) == 1 ? 0 : C, C);
            });
        });
    });
}

void segment_sum(const Tensor& y, const Tensor& x, const Tensor& cu_seqlens) {
    with_float(x.dtype(), [&]<class T>() {
        launch(segment_sum_kernel<T>, {.grid = {ceil_div(y.numel(), warps)}, .threads = block}, at<T>(y), at<T>(x),
               indices(cu_seqlens), y.numel());
    });
}

void segment_sum_backward(const Tensor& dx, const Tensor& dy, const Tensor& cu_seqlens, bool accumulate) {
    with_float(dx.dtype(), [&]<class T>() {
        with_flag(accumulate, [&]<bool adds>() {
            launch(segment_sum_backward_kernel<adds, T>, {.grid = {ceil_div(dy.numel(), warps)}, .threads = block},
                   at<T>(dx), at<T>(dy), indices(cu_seqlens), dy.numel());
        });
    });
}

}  // namespace uipe::tensor::cuda
