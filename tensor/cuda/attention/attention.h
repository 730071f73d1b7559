// Attention as a ladder: each level computes the same with more of the hardware, and one file holds it.
//
// * naive: f32 and bf16, any D.
// * tiled: tiles in shared memory, one pass by the online softmax. f32 and bf16, D a multiple of 8 up to 128.
// * mma: tensor cores and asynchronous copies. bf16, D as mma_takes() says.
// * wgmma: products of four warps, and the copy engine, of sm_90. bf16, D = 64 and 128.
//
// What all levels share is in attention.cu: the choice, the lists of tiles, delta = rowsum(dout * out).
// ops.h says what is computed. House letters: B T H K D; S rows of keys; query head h reads key head h / (H/K).
#pragma once

#include <string>
#include <vector>

#include "tensor/cuda/cuda.h"
#include "tensor/cuda/device/device.h"

namespace uipe::tensor::cuda::attend {

/// automatic: the highest level that takes the type and the head size; wgmma only on an sm_90, and after
/// wgmma_agrees().
enum class Level : std::uint8_t { automatic, naive, tiled, mma, wgmma };

/// Every level but automatic, lowest first.
inline constexpr Level levels[] = {Level::naive, Level::tiled, Level::mma, Level::wgmma};
const char* name_of(Level level);
/// Whether the level computes with this type and head size, on this device.
bool takes(Level level, DType dtype, std::int64_t D);

/// Whether level 4 gives what level 3 gives on a small problem of each head size, here and now.
bool wgmma_agrees();

/// The level of the calls that follow; UIPE_ATTENTION=naive|tiled|mma|wgmma sets the first value. With a level other
/// than automatic, a call that it does not take is an InputError.
void set_level(Level level);

// --- What kernels get ----------------------------------------------------------------------------------------------

/// Sequence b has queries [cu_queries[b], cu_queries[b+1]) and keys [cu_keys[b], cu_keys[b+1]), at least as many.
struct Layout {
    int H, K, D;
    float scale;  // 1/sqrt(D)
    const std::int32_t* cu_queries;
    const std::int32_t* cu_keys;
};

/// Rows [first, first + rows) of a sequence, or as many of them as it has. `first` counts from the sequence's first
/// row.
struct Tile {
    std::int32_t sequence, first;
};

template <class T>
struct Forward {
    T* out;          // [T,H,D]
    float* lse;      // [T,H], natural logarithm
    const T* q;      // [T,H,D]
    const T *k, *v;  // [S,K,D]
    Layout layout;
};

/// cu_queries is cu_keys. `delta` is rowsum(dout * out) [T,H].
template <class T>
struct Backward {
    T *dq, *dk, *dv;
    const T *dout, *q, *k, *v;
    const float *lse, *delta;
    bool accumulate_q, accumulate_k, accumulate_v;
    Layout layout;
};

/// A sequence's place, as a kernel reads it. Query i sees keys 0 to shift + i.
struct Sequence {
    std::int64_t query, key;  // its first rows
    int queries, keys;
    __device__ int shift() const { return keys - queries; }
};
__device__ inline Sequence sequence(const Layout& l, int b) {
    return {l.cu_queries[b], l.cu_keys[b], l.cu_queries[b + 1] - l.cu_queries[b], l.cu_keys[b + 1] - l.cu_keys[b]};
}

// --- What the host gets --------------------------------------------------------------------------------------------

/// The offsets, on the host.
struct Batch {
    const Tensor& cu_queries;
    const Tensor& cu_keys;
};

/// A list of tiles on the device. Those with most work come first, so that the last blocks to start are short ones.
struct Tiles {
    const Tile* at;
    std::int64_t count;
    Tensor owner;
};
/// Tiles that cover every query (every key), each of at least one row. Remembered for the offsets of the last batches:
/// every layer of a model asks for the same.
Tiles query_tiles(const Batch& batch, int rows);
Tiles key_tiles(const Batch& batch, int rows);

// --- The levels ----------------------------------------------------------------------------------------------------

template <class T>
void naive_forward(const Forward<T>& f, const Batch& batch);
template <class T>
void naive_backward(const Backward<T>& b, const Batch& batch);

template <class T>
void tiled_forward(const Forward<T>& f, const Batch& batch);
template <class T>
void tiled_backward(const Backward<T>& b, const Batch& batch);

bool mma_takes(DType dtype, std::int64_t D);
void mma_forward(const Forward<bf16>& f, const Batch& batch);
void mma_backward(const Backward<bf16>& b, const Batch& batch);

bool wgmma_takes(DType dtype, std::int64_t D);
void wgmma_forward(const Forward<bf16>& f, const Batch& batch);
void wgmma_backward(const Backward<bf16>& b, const Batch& batch);

}  // namespace uipe::tensor::cuda::attend
