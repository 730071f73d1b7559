// What the levels of attention share: the choice of a level, the lists of tiles, and delta.
#include "tensor/cuda/attention/attention.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "tensor/cuda/floats.h"

namespace uipe::tensor::cuda {
namespace attend {
namespace {

bool is_hopper() { return what_is_missing().empty() && compute_capability() / 10 == 9; }
bool is_emulated() { return what_is_missing().empty() && compute_capability() == 0; }

Level level_of_environment() {
    const char* name = std::getenv("UIPE_ATTENTION");
    if (name == nullptr || *name == '\0') return Level::automatic;
    for (const Level level : levels)
        if (std::string(name) == name_of(level)) return level;
    throw InputError(cat("UIPE_ATTENTION=", name, ": there are naive, tiled, mma and wgmma"));
}

Level& wanted() {
    static Level level = level_of_environment();
    return level;
}

/// Once in a process. The emulator has the level when it is asked for.
bool wgmma_is_trusted() {
    static const bool trusted = [] {
        if (!is_hopper()) return false;
        const bool agrees = wgmma_agrees();
        if (!agrees)
            std::fprintf(stderr, "attention: level wgmma does not give what mma gives on this %s; mma is used\n",
                         device_name().c_str());
        return agrees;
    }();
    return trusted;
}

void check_wanted(DType dtype, std::int64_t D) {
    require_input(wanted() == Level::automatic || takes(wanted(), dtype, D), "attention level ", name_of(wanted()),
                  " does not take ", tensor::name_of(dtype), " with heads of ", D, " on this ", device_name(),
                  "; unset UIPE_ATTENTION and one that does is chosen");
}

Level choose(DType dtype, std::int64_t D) {
    check_wanted(dtype, D);
    if (wanted() != Level::automatic) return wanted();
    Level best = Level::naive;
    for (const Level level : levels)
        if (takes(level, dtype, D) && (level != Level::wgmma || wgmma_is_trusted())) best = level;
    return best;
}

// --- Lists of tiles ------------------------------------------------------------------------------------------------

struct Job {
    Tile tile;
    std::int64_t work;  // rows of the other side that it meets
};

enum class Side : std::uint8_t { queries, keys };

Tensor make_tiles(const Batch& batch, Side side, int rows) {
    const std::int32_t* q = batch.cu_queries.data<std::int32_t>();
    const std::int32_t* k = batch.cu_keys.data<std::int32_t>();
    std::vector<Job> jobs;
    for (std::int32_t b = 0; b + 1 < batch.cu_queries.numel(); ++b) {
        const std::int32_t queries = q[b + 1] - q[b];
        const std::int32_t keys = k[b + 1] - k[b];
        const std::int32_t n = side == Side::queries ? queries : keys;
        for (std::int32_t first = 0; first < n; first += rows)
            jobs.push_back(
                {{b, first}, side == Side::queries ? std::min(keys, keys - queries + first + rows) : n - first});
    }
    std::stable_sort(jobs.begin(), jobs.end(), [](const Job& x, const Job& y) { return x.work > y.work; });
    std::vector<std::int32_t> list;
    for (const Job& job : jobs) list.insert(list.end(), {job.tile.sequence, job.tile.first});
    return Tensor::from(list);
}

/// The lists made last, by what they were made from.
class Remembered {
public:
    Tensor tiles(const Batch& batch, Side side, int rows) {
        Key key{batch.cu_queries.to_vector<std::int32_t>(), batch.cu_keys.to_vector<std::int32_t>(), side, rows};
        for (const Entry& entry : entries_)
            if (entry.key == key) return entry.list;
        Entry& oldest = entries_[next_++ % entries_.size()];
        oldest = {std::move(key), make_tiles(batch, side, rows)};
        return oldest.list;
    }

private:
    struct Key {
        std::vector<std::int32_t> cu_queries, cu_keys;
        Side side = Side::queries;
        int rows = 0;
        bool operator==(const Key&) const = default;
    };
    struct Entry {
        Key key;
        Tensor list;
    };
    std::array<Entry, 8> entries_;
    std::size_t next_ = 0;
};

Tiles tiles(const Batch& batch, Side side, int rows) {
    thread_local Remembered remembered;
    const Tensor list = remembered.tiles(batch, side, rows);
    return {reinterpret_cast<const Tile*>(indices(list)), list.numel() / 2, list};
}

// --- delta ---------------------------------------------------------------------------------------------------------

constexpr int delta_warps = 8;

/// delta[r] = sum of dout * out over row r of D, a warp a row.
template <class T>
__global__ void delta_kernel(float* delta, const T* dout, const T* out, std::int64_t rows, int D) {
    const std::int64_t row = static_cast<std::int64_t>(dev::block_x()) * delta_warps + dev::warp();
    float sum = 0.0F;
    if (row < rows)
        for (int d = dev::lane(); d < D; d += dev::warp_size)
            sum = dev::fma(dev::to_float(dout[row * D + d]), dev::to_float(out[row * D + d]), sum);
    sum = dev::warp_sum(sum);
    if (row < rows && dev::lane() == 0) delta[row] = sum;
}

Layout layout(const Tensor& q, const Tensor& k, const Batch& batch, std::int64_t D) {
    return {static_cast<int>(q.dim(1) / D),
            static_cast<int>(k.dim(1) / D),
            static_cast<int>(D),
            static_cast<float>(1.0 / std::sqrt(static_cast<double>(D))),
            indices(batch.cu_queries),
            indices(batch.cu_keys)};
}

template <class T>
void run_forward(Level level, const Forward<T>& f, const Batch& batch) {
    if constexpr (std::is_same_v<T, bf16>) {
        if (level == Level::wgmma) return wgmma_forward(f, batch);
        if (level == Level::mma) return mma_forward(f, batch);
    }
    if (level == Level::tiled) return tiled_forward(f, batch);
    naive_forward(f, batch);
}

template <class T>
void run_backward(Level level, const Backward<T>& b, const Batch& batch) {
    if constexpr (std::is_same_v<T, bf16>) {
        if (level == Level::wgmma) return wgmma_backward(b, batch);
        if (level == Level::mma) return mma_backward(b, batch);
    }
    if (level == Level::tiled) return tiled_backward(b, batch);
    naive_backward(b, batch);
}

// --- Whether level 4 can be trusted --------------------------------------------------------------------------------

/// out, lse, dq, dk and dv of one small problem.
std::vector<Tensor> small_problem(Level level, std::int64_t D) {
    const Device device{Device::Kind::cuda};
    const std::int64_t H = 2;
    const Tensor cu = Tensor::from(std::vector<std::int32_t>{0, 200, 203, 330});
    const std::int64_t T = 330;
    const auto random = [&](std::int64_t heads, std::uint64_t stream) {
        const Tensor x = Tensor::empty({T, heads * D}, DType::bf16, device);
        cuda::fill_normal(x, 1.0, 1, stream);
        return x;
    };
    const auto empty = [&](std::int64_t columns, DType dtype) { return Tensor::empty({T, columns}, dtype, device); };
    const Tensor q = random(H, 0), k = random(1, 1), v = random(1, 2), dout = random(H, 3);
    const Tensor out = empty(H * D, DType::bf16), lse = empty(H, DType::f32), delta = empty(H, DType::f32);
    const Tensor dq = empty(H * D, DType::bf16), dk = empty(D, DType::bf16), dv = empty(D, DType::bf16);
    const Batch batch{cu, cu};
    const Layout l = layout(q, k, batch, D);
    run_forward<bf16>(level, {at<bf16>(out), at<float>(lse), at<bf16>(q), at<bf16>(k), at<bf16>(v), l}, batch);
    launch(delta_kernel<bf16>, {.grid = {ceil_div(T * H, delta_warps)}, .threads = 32 * delta_warps}, at<float>(delta),
           at<bf16>(dout), at<bf16>(out), T * H, static_cast<int>(D));
    run_backward<bf16>(level,
                       {at<bf16>(dq), at<bf16>(dk), at<bf16>(dv), at<bf16>(dout), at<bf16>(q), at<bf16>(k), at<bf16>(v),
                        at<float>(lse), at<float>(delta), false, false, false, l},
                       batch);
    std::vector<Tensor> results;
    for (const Tensor& x : {out, lse, dq, dk, dv}) results.push_back(x.to(Device{}).to(DType::f64));
    return results;
}

/// Within 1 % in norm: each rounds its weights and its results to bf16 by itself, by 0.4 % of each at most.
bool agree(const Tensor& a, const Tensor& b) {
    double difference = 0.0;
    double size = 0.0;
    const std::vector<double> x = a.to_vector<double>();
    const std::vector<double> y = b.to_vector<double>();
    for (std::size_t i = 0; i < x.size(); ++i) {
        difference += (x[i] - y[i]) * (x[i] - y[i]);
        size += y[i] * y[i];
    }
    return difference <= 1e-4 * size;  // false for NaN
}

}  // namespace

bool wgmma_agrees() {
    try {
        for (const std::int64_t D : {64, 128}) {
            const std::vector<Tensor> got = small_problem(Level::wgmma, D);
            const std::vector<Tensor> want = small_problem(Level::mma, D);
            for (std::size_t i = 0; i < got.size(); ++i)
                if (!agree(got[i], want[i])) return false;
        }
        return true;
    } catch (const Error&) {
        return false;  // the driver makes no maps, or refuses the launch
    }
}

const char* name_of(Level level) {
    switch (level) {
        case Level::naive:
            return "naive";
        case Level::tiled:
            return "tiled";
        case Level::mma:
            return "mma";
        case Level::wgmma:
            return "wgmma";
        case Level::automatic:
            break;
    }
    return "automatic";
}

bool takes(Level level, DType dtype, std::int64_t D) {
    if (level == Level::wgmma) return wgmma_takes(dtype, D) && (is_hopper() || is_emulated());
    if (level == Level::mma) return mma_takes(dtype, D);
    if (level == Level::tiled) return D % 8 == 0 && D <= 128;
    return true;
}

void set_level(Level level) { wanted() = level; }

Tiles query_tiles(const Batch& batch, int rows) { return tiles(batch, Side::queries, rows); }
Tiles key_tiles(const Batch& batch, int rows) { return tiles(batch, Side::keys, rows); }

}  // namespace attend

void check_attention(DType dtype, std::int64_t head_dim) { attend::check_wanted(dtype, head_dim); }

void attention(const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v,
               const Tensor& cu_queries, const Tensor& cu_keys, std::int64_t head_dim) {
    using namespace attend;
    const Batch batch{cu_queries, cu_keys};
    // The higher levels move 16 bytes at a time.
    const Level level = aligned(out, q, k, v) ? choose(q.dtype(), head_dim) : Level::naive;
    with_float(q.dtype(), [&]<class T>() {
        run_forward<T>(level, {at<T>(out), at<float>(lse), at<T>(q), at<T>(k), at<T>(v), layout(q, k, batch, head_dim)},
                       batch);
    });
}

void attention_backward(const Tensor& dq, const Tensor& dk, const Tensor& dv, const Tensor& dout, const Tensor& q,
                        const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
                        const Tensor& cu_seqlens, std::int64_t head_dim, bool accumulate_q, bool accumulate_k,
                        bool accumulate_v) {
    using namespace attend;
    const Batch batch{cu_seqlens, cu_seqlens};
    const Level level = aligned(dq, dk, dv, dout, q, k, v, out) ? choose(q.dtype(), head_dim) : Level::naive;
    const Tensor delta = Tensor::empty(lse.shape(), DType::f32, q.device());
    with_float(q.dtype(), [&]<class T>() {
        launch(delta_kernel<T>, {.grid = {ceil_div(delta.numel(), delta_warps)}, .threads = 32 * delta_warps},
               at<float>(delta), at<T>(dout), at<T>(out), delta.numel(), static_cast<int>(head_dim));
        run_backward<T>(level,
                        {at<T>(dq), at<T>(dk), at<T>(dv), at<T>(dout), at<T>(q), at<T>(k), at<T>(v), at<float>(lse),
                         at<float>(delta), accumulate_q, accumulate_k, accumulate_v, layout(q, k, batch, head_dim)},
                        batch);
    });
}

}  // namespace uipe::tensor::cuda
