// Attention of one new token a row against a cache. It waits for memory alone: each key and value is read once for (up
// to four) query heads of its group, 16 bytes at a time, with several loads under way.
//
// A block takes 256 keys of one row and key head. (1) 8 lanes score a key, 64 keys at a time; (2) a warp a head turns
// scores into shares of the largest; (3) threads own a piece of D and every n-th key, and add values; what they hold is
// added up in shared memory. A context of more than 256 keys leaves the parts in memory, and a second kernel joins
// them in their order. What a row gets depends on its own length alone, not on the rows beside it.
// Measured: not yet on a GPU.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "tensor/cuda/floats.h"

namespace uipe::tensor::cuda {
namespace {

constexpr int warps = 4;
constexpr int threads = warps * dev::warp_size;
constexpr int chunk = 256;  // keys of a block
constexpr int lanes = 8;    // that score one key
constexpr int groups = threads / lanes;
constexpr int at_once = 4;  // keys of a group under way
static_assert(chunk % (groups * at_once) == 0);

template <class T>
struct Decode {
    T* out;          // [B,H,D]
    const T* q;      // [B,H,D]
    const T *k, *v;  // [slots,capacity,K,D]
    float* sums;     // [B,H,chunks,D]: where there is more than one chunk
    float* states;   // [B,H,chunks,2]: the largest score, in powers of two, and the total under it
    const std::int32_t *slots, *lengths;
    std::int64_t capacity;
    int H, K, D, chunks;
    float scale;
};

/// `size` elements that are loaded at once: 16 bytes, or one where rows are not aligned.
template <class T, int size>
struct Piece {
    T at[size];
};
template <int size, class T>
__device__ inline Piece<T, size> load_piece(const T* p) {
    if constexpr (size == 1)
        return {{*p}};
    else
        return std::bit_cast<Piece<T, size>>(dev::load(p));
}

/// A block's row and key head, and its `count` query heads from `head` on.
struct Place {
    int row, key_head, head, count;
};
template <int heads, class T>
__device__ inline Place place(const Decode<T>& d) {
    const int group = d.H / d.K;
    const int parts = (group + heads - 1) / heads;
    const int part = dev::block_x() % parts;
    const int key_head = dev::block_x() / parts % d.K;
    return {dev::block_x() / parts / d.K, key_head, key_head * group + part * heads,
            dev::min_of(heads, group - part * heads)};
}

/// scores[h][j] = q[h] k[j] for the block's heads and n keys.
template <int size, int heads, class T>
__device__ inline void score(float* scores, const float* q, const T* k, std::int64_t step, int n, int D DEV_AND_HERE) {
    const int group = dev::thread() / lanes;
    const int lane = dev::thread() % lanes;
    for (int base = 0; base < n; base += groups * at_once) {
        float sums[at_once][heads] = {};
        for (int d = lane * size; d < D; d += lanes * size) {
            Piece<T, size> x[at_once];
            for (int u = 0; u < at_once; ++u) {
                const int j = base + u * groups + group;
                x[u] = load_piece<size>(k + (j < n ? j : n - 1) * step + d);
            }
            for (int h = 0; h < heads; ++h)
                for (int e = 0; e < size; ++e) {
                    const float y = q[h * D + d + e];
                    for (int u = 0; u < at_once; ++u) sums[u][h] = dev::fma(y, dev::to_float(x[u].at[e]), sums[u][h]);
                }
        }
        for (int u = 0; u < at_once; ++u)
            for (int h = 0; h < heads; ++h) {
                float sum = sums[u][h];
                for (int far = 1; far < lanes; far *= 2) sum += dev::shuffle_xor(sum, far DEV_AND_PASS);
                const int j = base + u * groups + group;
                if (lane == 0 && j < n) scores[h * chunk + j] = sum;
            }
    }
}

template <int size, int heads, class T>
__global__ void __launch_bounds__(threads) decode_kernel(Decode<T> d) {
    static_assert(heads <= warps);
    DEV_SHARED(float, scores, heads* chunk);
    DEV_SHARED(float, state, heads * 2);
    DEV_SHARED(float, parts_of, heads* threads* size);
    DEV_DYNAMIC_SHARED(memory);
    float* const q = reinterpret_cast<float*>(memory);  // [heads,D]
    const Place at = place<heads>(d);
    const int first = dev::block_y() * chunk;
    const int n = dev::min_of(chunk, d.lengths[at.row] - first);
    if (n <= 0) return;
    const std::int64_t query = (static_cast<std::int64_t>(at.row) * d.H + at.head) * d.D;
    const std::int64_t key = ((d.slots[at.row] * d.capacity + first) * d.K + at.key_head) * d.D;
    const std::int64_t step = static_cast<std::int64_t>(d.K) * d.D;

    for (int i = dev::thread(); i < heads * d.D; i += threads)
        q[i] = i < at.count * d.D ? d.scale * std::numbers::log2e_v<float> * dev::to_float(d.q[query + i]) : 0.0F;
    dev::sync();
    score<size, heads>(scores, q, d.k + key, step, n, d.D);
    dev::sync();
    if (dev::warp() < heads) {
        float* mine = scores + dev::warp() * chunk;
        float most = -std::numeric_limits<float>::infinity();
        for (int j = dev::lane(); j < n; j += dev::warp_size) most = dev::max_of(most, mine[j]);
        most = dev::warp_max(most);
        float total = 0.0F;
        for (int j = dev::lane(); j < n; j += dev::warp_size) {
            mine[j] = dev::exp2(mine[j] - most);
            total += mine[j];
        }
        total = dev::warp_sum(total);
        if (dev::lane() == 0) {
            state[2 * dev::warp()] = most;
            state[2 * dev::warp() + 1] = total;
        }
    }
    const std::int64_t part_row = (static_cast<std::int64_t>(at.row) * d.H + at.head) * d.chunks + dev::block_y();
    const int pieces = d.D / size;
    for (int begin = 0; begin < pieces; begin += threads) {
        const int width = dev::min_of(threads, pieces - begin);
        const int parts = threads / width;
        const int piece = dev::thread() % width;
        const int part = dev::thread() / width;
        dev::sync();  // the shares are there, the parts of the pieces before are read
        if (part < parts) {
            float sums[heads][size] = {};
            const T* v = d.v + key + static_cast<std::int64_t>(begin + piece) * size;
            for (int j = part; j < n; j += parts) {
                const auto x = load_piece<size>(v + j * step);
                for (int h = 0; h < heads; ++h)
                    for (int e = 0; e < size; ++e)
                        sums[h][e] = dev::fma(scores[h * chunk + j], dev::to_float(x.at[e]), sums[h][e]);
            }
            for (int h = 0; h < heads; ++h)
                for (int e = 0; e < size; ++e)
                    parts_of[(h * parts + part) * width * size + piece * size + e] = sums[h][e];
        }
        dev::sync();
        for (int i = dev::thread(); i < at.count * width * size; i += threads) {
            const int h = i / (width * size);
            const int element = i % (width * size);
            float sum = 0.0F;
            for (int p = 0; p < parts; ++p) sum += parts_of[(h * parts + p) * width * size + element];
            if (d.chunks == 1)
                d.out[query + h * d.D + begin * size + element] = dev::to<T>(sum / state[2 * h + 1]);
            else
                d.sums[(part_row + static_cast<std::int64_t>(h) * d.chunks) * d.D + begin * size + element] = sum;
        }
    }
    if (d.chunks > 1 && dev::thread() < 2 * at.count)
        d.states[2 * (part_row + static_cast<std::int64_t>(dev::thread() / 2) * d.chunks) + dev::thread() % 2] =
            state[dev::thread()];
}

/// Joins the chunks of a row and head, a block each: shares of a chunk's largest become shares of the largest of all.
template <class T>
__global__ void __launch_bounds__(threads) join_kernel(Decode<T> d) {
    const std::int64_t head = dev::block_x();
    const int n = (d.lengths[head / d.H] + chunk - 1) / chunk;
    const float* states = d.states + 2 * head * d.chunks;
    float most = states[0];
    for (int c = 1; c < n; ++c) most = dev::max_of(most, states[2 * c]);
    float total = 0.0F;
    for (int c = 0; c < n; ++c) total += dev::exp2(states[2 * c] - most) * states[2 * c + 1];
    for (int i = dev::thread(); i < d.D; i += threads) {
        float sum = 0.0F;
        for (int c = 0; c < n; ++c) sum += dev::exp2(states[2 * c] - most) * d.sums[(head * d.chunks + c) * d.D + i];
        d.out[head * d.D + i] = dev::to<T>(sum / total);
    }
}

template <int size, int heads, class T>
void run(const Decode<T>& d, std::int64_t B) {
    launch(decode_kernel<size, heads, T>,
           {.grid = {B * d.K * ceil_div(d.H / d.K, heads), d.chunks},
            .threads = threads,
            .shared = static_cast<std::size_t>(heads * d.D) * sizeof(float)},
           d);
    if (d.chunks > 1) launch(join_kernel<T>, {.grid = {B * d.H}, .threads = threads}, d);
}

}  // namespace

void attention_decode(const Tensor& out, const Tensor& q, const Tensor& cache_k, const Tensor& cache_v,
                      const Tensor& slots, const Tensor& lengths, std::int64_t head_dim) {
    const std::int64_t B = q.dim(0);
    if (B == 0) return;
    const std::int32_t* length = lengths.data<std::int32_t>();
    const auto chunks = static_cast<int>(ceil_div(*std::max_element(length, length + B), chunk));
    const std::int64_t H = q.dim(1) / head_dim;
    const std::int64_t parts = chunks > 1 ? B * H * chunks : 0;
    const Tensor sums = Tensor::empty({parts, head_dim}, DType::f32, q.device());
    const Tensor states = Tensor::empty({parts, 2}, DType::f32, q.device());
    with_float(q.dtype(), [&]<class T>() {
        const Decode<T> d{at<T>(out),
                          at<T>(q),
                          at<T>(cache_k),
                          at<T>(cache_v),
                          at<float>(sums),
                          at<float>(states),
                          indices(slots),
                          indices(lengths),
                          cache_k.dim(1),
                          static_cast<int>(H),
                          static_cast<int>(cache_k.dim(2) / head_dim),
                          static_cast<int>(head_dim),
                          chunks,
                          static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim)))};
        constexpr int vector = dev::Vec<T>::size;
        const bool vectors = head_dim % vector == 0 && aligned(out, q, cache_k, cache_v);
        if (d.H == d.K)
            vectors ? run<vector, 1>(d, B) : run<1, 1>(d, B);
        else
            vectors ? run<vector, 4>(d, B) : run<1, 4>(d, B);
    });
}

}  // namespace uipe::tensor::cuda
