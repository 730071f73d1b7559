// SwiGLU, a thread for 16 bytes. It waits for memory alone; the gradient computes the sigmoid again rather than read
// it.
#include "tensor/cuda/floats.h"

namespace uipe::tensor::cuda {
namespace {

constexpr int block = 256;

__device__ inline float sigmoid(float x) { return 1.0F / (1.0F + dev::exp(-x)); }

__device__ inline std::int64_t index() { return static_cast<std::int64_t>(dev::block_x()) * block + dev::thread(); }

template <int n, class T>
__global__ void swiglu_kernel(T* y, const T* gate, const T* up, std::int64_t count) {
    const std::int64_t at = index() * n;
    if (at >= count) return;
    float g[n], u[n];
    read(g, gate + at);
    read(u, up + at);
    for (int i = 0; i < n; ++i) u[i] *= g[i] * sigmoid(g[i]);
    write(y + at, u);
}

template <int n, bool adds_gate, bool adds_up, class T>
__global__ void swiglu_backward_kernel(T* dgate, T* dup, const T* dy, const T* gate, const T* up, std::int64_t count) {
    const std::int64_t at = index() * n;
    if (at >= count) return;
    float d[n], g[n], u[n];
    read(d, dy + at);
    read(g, gate + at);
    read(u, up + at);
    for (int i = 0; i < n; ++i) {
        const float s = sigmoid(g[i]);
        u[i] = d[i] * u[i] * s * (g[i] * (1.0F - s) + 1.0F);
        d[i] = d[i] * g[i] * s;
    }
    write_or_add<adds_gate>(dgate + at, u);
    write_or_add<adds_up>(dup + at, d);
}

/// Calls body.template operator()<n>(from, count): n elements a thread for all that are vectors, then one.
template <class T, class Body>
void in_pieces(bool vectors, std::int64_t count, const Body& body) {
    constexpr int size = dev::Vec<T>::size;
    const std::int64_t whole = vectors ? count / size * size : 0;
    body.template operator()<size>(0, whole);
    body.template operator()<1>(whole, count - whole);
}

Launch over(std::int64_t pieces) { return {.grid = {ceil_div(pieces, block)}, .threads = block}; }

}  // namespace

void swiglu(const Tensor& y, const Tensor& gate, const Tensor& up) {
    with_float(y.dtype(), [&]<class T>() {
        in_pieces<T>(aligned(y, gate, up), y.numel(), [&]<int n>(std::int64_t from, std::int64_t count) {
            launch(swiglu_kernel<n, T>, over(count / n), at<T>(y) + from, at<T>(gate) + from, at<T>(up) + from, count);
        });
    });
}

void swiglu_backward(const Tensor& dgate, const Tensor& dup, const Tensor& dy, const Tensor& gate, const Tensor& up,
                     bool accumulate_gate, bool accumulate_up) {
    with_float(dy.dtype(), [&]<class T>() {
        with_flag(accumulate_gate, [&]<bool adds_gate>() {
            with_flag(accumulate_up, [&]<bool adds_up>() {
                in_pieces<T>(
                    aligned(dgate, dup, dy, gate, up), dy.numel(), [&]<int n>(std::int64_t from, std::int64_t count) {
                        launch(swiglu_backward_kernel<n, adds_gate, adds_up, T>, over(count / n), at<T>(dgate) + from,
                               at<T>(dup) + from, at<T>(dy) + from, at<T>(gate) + from, at<T>(up) + from, count);
                    });
            });
        });
    });
}

}  // namespace uipe::tensor::cuda
