// add_ranks.h: it waits for memory alone, so each thread adds up 16 bytes of each rank.
#include "tensor/cuda/add_ranks.h"

#include "tensor/cuda/floats.h"

namespace uipe::tensor::cuda {
namespace {

constexpr int block = 256;

/// `width` numbers of every rank from element `done` on, a thread.
template <class T, int width>
__global__ void add_in_order(T* y, const T* own, const T* others, std::int64_t stride, int rank, int ranks,
                             std::int64_t done, std::int64_t n) {
    const std::int64_t i = done + (static_cast<std::int64_t>(dev::block_x()) * dev::threads() + dev::thread()) * width;
    if (i >= n) return;
    float sum[width] = {};
    read(sum, (rank == 0 ? own : others) + i);
    for (int r = 1; r < ranks; ++r) {
        float x[width] = {};
        read(x, (r == rank ? own : others + (r < rank ? r : r - 1) * stride) + i);
        for (int j = 0; j < width; ++j) sum[j] += x[j];
    }
    write(y + i, sum);
}

}  // namespace

void add_ranks(const RankSum& s) {
    with_float(s.dtype, [&]<class T>() {
        constexpr int width = dev::Vec<T>::size;
        auto* y = static_cast<T*>(s.y);
        const auto* own = static_cast<const T*>(s.own);
        const auto* others = static_cast<const T*>(s.others);
        const auto aligned = [](const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; };
        const bool wide = aligned(y) && aligned(own) && aligned(others) && s.stride % width == 0;
        const std::int64_t whole = wide ? s.n / width * width : 0;
        launch(add_in_order<T, width>, {.grid = {ceil_div(whole / width, block)}, .threads = block}, y, own, others,
               s.stride, s.rank, s.ranks, std::int64_t{0}, whole);
        launch(add_in_order<T, 1>, {.grid = {ceil_div(s.n - whole, block)}, .threads = block}, y, own, others, s.stride,
               s.rank, s.ranks, whole, s.n);
    });
}

}  // namespace uipe::tensor::cuda
