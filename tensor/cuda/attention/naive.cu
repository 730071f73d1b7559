// Level 1 of attention: a warp for each row, nothing shared between warps. It is what the other levels are read
// against. A lane scores one key (or query) of 32 at a time, by itself; then all lanes take what the 32 weigh and each
// adds up its own elements lane, lane + 32, … of the row's result, in shared memory, so that any D will do. Keys are
// met twice forward (once for the log-sum-exp, once for the sum of values), and memory is O(T). Measured: not yet on a
// GPU.
#include <limits>

#include "tensor/cuda/attention/attention.h"

namespace uipe::tensor::cuda::attend {
namespace {

constexpr int warps = 4;  // a block: so many rows of one head

template <class T>
__device__ inline float dot(const T* a, const T* b, int D) {
    float sum = 0.0F;
    for (int d = 0; d < D; ++d) sum = dev::fma(dev::to_float(a[d]), dev::to_float(b[d]), sum);
    return sum;
}

/// A row of D sums in shared memory, and the weights of 32 rows that are added to it. Each warp has its own.
class Row {
public:
    __device__ Row(float* sums, int D) : sums_(sums), D_(D) {
        for (int d = dev::lane(); d < D_; d += dev::warp_size) sums_[d] = 0.0F;
    }
    /// Sums += weights[i] rows[i * step] for i < n.
    template <class T>
    __device__ void add(const float* weights, const T* rows, std::int64_t step, int n) {
        for (int d = dev::lane(); d < D_; d += dev::warp_size) {
            float sum = sums_[d];
            for (int i = 0; i < n; ++i) sum = dev::fma(weights[i], dev::to_float(rows[i * step + d]), sum);
            sums_[d] = sum;
        }
    }
    template <class T>
    __device__ void store(T* to, bool accumulate) const {
        for (int d = dev::lane(); d < D_; d += dev::warp_size)
            to[d] = dev::to<T>(accumulate ? dev::to_float(to[d]) + sums_[d] : sums_[d]);
    }

private:
    float* sums_;
    int D_;
};

/// Where a warp is: row `row` of a sequence, in head `head` of `heads`; past the end it has nothing to do.
struct Place {
    Sequence s;
    int head, row;
};
__device__ inline Place place(const Layout& l, const Tile* tiles, int heads) {
    const Tile tile = tiles[dev::block_x() / heads];
    return {sequence(l, tile.sequence), dev::block_x() % heads, tile.first + dev::warp()};
}

/// The log-sum-exp of the scores of q with n keys: a lane's own maximum and sum, then the warp's.
template <class T>
__device__ inline float log_sum_exp(const T* q, const T* k, std::int64_t step, int n, const Layout& l) {
    float most = -std::numeric_limits<float>::infinity();
    float total = 0.0F;
    for (int j = dev::lane(); j < n; j += dev::warp_size) {
        const float score = l.scale * dot(q, k + j * step, l.D);
        const float now = dev::max_of(most, score);
        total = total * dev::exp(most - now) + dev::exp(score - now);
        most = now;
    }
    const float highest = dev::warp_max(most);
    return highest + dev::log(dev::warp_sum(total * dev::exp(most - highest)));
}

template <class T>
__global__ void naive_forward_kernel(Forward<T> f, const Tile* tiles) {
    DEV_SHARED(float, all_weights, warps* dev::warp_size);
    DEV_DYNAMIC_SHARED(memory);
    const Layout& l = f.layout;
    const Place at = place(l, tiles, l.H);
    if (at.row >= at.s.queries) return;
    const std::int64_t head = (at.s.query + at.row) * l.H + at.head;
    const T* q = f.q + head * l.D;
    const std::int64_t keys = (at.s.key * l.K + at.head / (l.H / l.K)) * l.D;
    const std::int64_t step = static_cast<std::int64_t>(l.K) * l.D;
    const int n = at.s.shift() + at.row + 1;

    const float lse = log_sum_exp(q, f.k + keys, step, n, l);
    if (dev::lane() == 0) f.lse[head] = lse;

    float* weights = all_weights + dev::warp() * dev::warp_size;
    Row out(reinterpret_cast<float*>(memory) + dev::warp() * l.D, l.D);
    for (int first = 0; first < n; first += dev::warp_size) {
        const int j = first + dev::lane();
        if (j < n) weights[dev::lane()] = dev::exp(l.scale * dot(q, f.k + keys + j * step, l.D) - lse);
        dev::sync_warp();
        out.add(weights, f.v + keys + first * step, step, dev::min_of(dev::warp_size, n - first));
        dev::sync_warp();
    }
    out.store(f.out + head * l.D, false);
}

/// The probability of a query and key, and the gradient of their score.
struct Pair {
    float p, ds;
};
template <class T>
__device__ inline Pair pair(const Backward<T>& b, std::int64_t query, std::int64_t key) {
    const Layout& l = b.layout;
    const std::int64_t D = l.D;
    const float p = dev::exp(l.scale * dot(b.q + query * D, b.k + key * D, l.D) - b.lse[query]);
    return {p, l.scale * p * (dot(b.dout + query * D, b.v + key * D, l.D) - b.delta[query])};
}

/// dq of a query: a warp adds its keys.
template <class T>
__global__ void naive_dq_kernel(Backward<T> b, const Tile* tiles) {
    DEV_SHARED(float, all_weights, warps* dev::warp_size);
    DEV_DYNAMIC_SHARED(memory);
    const Layout& l = b.layout;
    const Place at = place(l, tiles, l.H);
    if (at.row >= at.s.queries) return;
    const std::int64_t query = (at.s.query + at.row) * l.H + at.head;
    const std::int64_t key = at.s.key * l.K + at.head / (l.H / l.K);
    const int n = at.s.shift() + at.row + 1;

    float* weights = all_weights + dev::warp() * dev::warp_size;
    Row dq(reinterpret_cast<float*>(memory) + dev::warp() * l.D, l.D);
    for (int first = 0; first < n; first += dev::warp_size) {
        const int j = first + dev::lane();
        if (j < n) weights[dev::lane()] = pair(b, query, key + static_cast<std::int64_t>(j) * l.K).ds;
        dev::sync_warp();
        dq.add(weights, b.k + (key + static_cast<std::int64_t>(first) * l.K) * l.D,
               static_cast<std::int64_t>(l.K) * l.D, dev::min_of(dev::warp_size, n - first));
        dev::sync_warp();
    }
    dq.store(b.dq + query * l.D, b.accumulate_q);
}

/// dk and dv of a key: a warp adds the queries that see it, of one head of the group after another.
template <class T>
__global__ void naive_dkdv_kernel(Backward<T> b, const Tile* tiles) {
    DEV_SHARED(float, all_weights, 2 * warps * dev::warp_size);
    DEV_DYNAMIC_SHARED(memory);
    const Layout& l = b.layout;
    const Place at = place(l, tiles, l.K);
    if (at.row >= at.s.keys) return;
    const std::int64_t key = (at.s.key + at.row) * l.K + at.head;

    float* weights_k = all_weights + 2 * dev::warp() * dev::warp_size;
    float* weights_v = weights_k + dev::warp_size;
    float* rows = reinterpret_cast<float*>(memory) + 2 * dev::warp() * l.D;
    Row dk(rows, l.D);
    Row dv(rows + l.D, l.D);
    for (int h = at.head * (l.H / l.K); h < (at.head + 1) * (l.H / l.K); ++h)
        for (int first = dev::max_of(0, at.row - at.s.shift()); first < at.s.queries; first += dev::warp_size) {
            const std::int64_t query = (at.s.query + first) * l.H + h;
            const int n = dev::min_of(dev::warp_size, at.s.queries - first);
            if (dev::lane() < n) {
                const Pair one = pair(b, query + static_cast<std::int64_t>(dev::lane()) * l.H, key);
                weights_k[dev::lane()] = one.ds;
                weights_v[dev::lane()] = one.p;
            }
            dev::sync_warp();
            const std::int64_t step = static_cast<std::int64_t>(l.H) * l.D;
            dk.add(weights_k, b.q + query * l.D, step, n);
            dv.add(weights_v, b.dout + query * l.D, step, n);
            dev::sync_warp();
        }
    dk.store(b.dk + key * l.D, b.accumulate_k);
    dv.store(b.dv + key * l.D, b.accumulate_v);
}

/// A block for each tile and head; `rows` rows of D sums a warp.
Launch over(const Tiles& tiles, int heads, int D, int rows) {
    return {.grid = {tiles.count * heads},
            .threads = warps * 32,
            .shared = static_cast<std::size_t>(warps) * static_cast<std::size_t>(rows * D) * sizeof(float)};
}

}  // namespace

template <class T>
void naive_forward(const Forward<T>& f, const Batch& batch) {
    const Tiles tiles = query_tiles(batch, warps);
    launch(naive_forward_kernel<T>, over(tiles, f.layout.H, f.layout.D, 1), f, tiles.at);
}

template <class T>
void naive_backward(const Backward<T>& b, const Batch& batch) {
    const Tiles queries = query_tiles(batch, warps);
    launch(naive_dq_kernel<T>, over(queries, b.layout.H, b.layout.D, 1), b, queries.at);
    const Tiles keys = key_tiles(batch, warps);
    launch(naive_dkdv_kernel<T>, over(keys, b.layout.K, b.layout.D, 2), b, keys.at);
}

template void naive_forward(const Forward<float>&, const Batch&);
template void naive_forward(const Forward<bf16>&, const Batch&);
template void naive_backward(const Backward<float>&, const Batch&);
template void naive_backward(const Backward<bf16>&, const Batch&);

}  // namespace uipe::tensor::cuda::attend
