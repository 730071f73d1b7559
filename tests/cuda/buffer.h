// Device memory for the kernels of tests.
#pragma once

#include <vector>

#include "tensor/cuda/cuda.h"

namespace uipe::tensor::test {

/// n elements of device memory.
template <class T>
class Buffer {
public:
    explicit Buffer(std::size_t n) : n_(n), data_(static_cast<T*>(cuda::take_memory(n * sizeof(T)))) {}
    explicit Buffer(const std::vector<T>& x) : Buffer(x.size()) { cuda::upload(data_, x.data(), n_ * sizeof(T)); }
    ~Buffer() { cuda::give_memory(data_); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    T* get() const { return data_; }
    std::vector<T> host() const {
        std::vector<T> x(n_);
        cuda::download(x.data(), data_, n_ * sizeof(T));
        return x;
    }

private:
    std::size_t n_;
    T* data_;
};

}  // namespace uipe::tensor::test
