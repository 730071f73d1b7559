// Rotary position embedding, a block a row: its threads first compute the row's sines into shared memory, once for all
// heads, then each rotates 16 bytes of x with those D/2 further on.
//
// Angles are counted in 2^-64 of a turn, in whole numbers: position * frequency overflows by whole turns, which is the
// reduction that a sine needs, without an error and without f64. What is left of the nearest quarter turn is at most an
// eighth, so that rounding it to f32 moves no sine by more than 3e-8.
#include <cmath>
#include <cstring>
#include <map>
#include <mutex>
#include <numbers>
#include <utility>
#include <vector>

#include "tensor/cuda/floats.h"

namespace uipe::tensor::cuda {
namespace {

constexpr int most_threads = 256;

/// theta^(-2i/D) / 2 pi in 2^-64 of a turn, u64[D/2] in an i32[D]; kept, because a program meets one or two.
Tensor turns_of(std::int64_t D, double theta) {
    static std::mutex mutex;
    // Never destroyed: at exit the device may be gone before it.
    static auto& tables = *new std::map<std::pair<std::int64_t, double>, Tensor>;
    const std::lock_guard lock(mutex);
    Tensor& table = tables[{D, theta}];
    if (!table.defined()) {
        std::vector<std::uint64_t> turns;
        for (std::int64_t i = 0; i < D / 2; ++i) {
            const double frequency = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(D));
            const double turn = frequency / (2.0 * std::numbers::pi);
            turns.push_back(static_cast<std::uint64_t>(std::ldexp(turn - std::floor(turn), 64)));
        }
        table = Tensor::empty({D}, DType::i32);
        std::memcpy(table.raw(), turns.data(), table.nbytes());
    }
    return table;
}

/// Cosine and sine of `turn` 2^-64 turns.
__device__ inline void sines(float& cosine, float& sine, std::uint64_t turn) {
    const auto quarter = static_cast<int>((turn + (std::uint64_t{1} << 61)) >> 62);  // the nearest
    const auto rest = static_cast<std::int64_t>(turn - (static_cast<std::uint64_t>(quarter) << 62));
    const float half_turns = static_cast<float>(rest) * 0x1p-63F;
    const float c = dev::cos_pi(half_turns);
    const float s = dev::sin_pi(half_turns);
    const bool odd = quarter % 2 == 1;
    cosine = (quarter == 1 || quarter == 2 ? -1.0F : 1.0F) * (odd ? s : c);
    sine = (quarter >= 2 ? -1.0F : 1.0F) * (odd ? c : s);
}

template <int n, bool adds, class T>
__global__ void rope_kernel(T* y, const T* x, const std::int32_t* positions, const std::uint64_t* turns, int width,
                            int half, float sign) {
    DEV_DYNAMIC_SHARED(shared);
    auto* cosines = reinterpret_cast<float*>(shared);  // [half]
    float* sine = cosines + half;                      // [half]
    const std::int64_t row = dev::block_x();
    const auto position = static_cast<std::uint64_t>(static_cast<std::int64_t>(positions[row]));
    for (int i = dev::thread(); i < half; i += dev::threads()) {
        sines(cosines[i], sine[i], position * turns[i]);
        sine[i] *= sign;
    }
    dev::sync();
    for (int at = dev::thread() * n; at < width / 2; at += dev::threads() * n) {
        const int i = at % half;
        const std::int64_t first = row * width + 2 * (at - i) + i;
        float c[n], s[n], x1[n], x2[n];
        read(c, cosines + i);
        read(s, sine + i);
        read(x1, x + first);
        read(x2, x + first + half);
        for (int j = 0; j < n; ++j) {
            const float before = x1[j];
            x1[j] = before * c[j] - x2[j] * s[j];
            x2[j] = x2[j] * c[j] + before * s[j];
        }
        write_or_add<adds>(y + first, x1);
        write_or_add<adds>(y + first + half, x2);
    }
}

}  // namespace

void rope(const Tensor& y, const Tensor& x, const Tensor& positions, std::int64_t head_dim, double theta, bool inverse,
          bool accumulate) {
    const auto width = static_cast<int>(x.dim(1));
    const auto half = static_cast<int>(head_dim / 2);
    const auto* turns = reinterpret_cast<const std::uint64_t*>(indices(turns_of(head_dim, theta)));
    with_float(x.dtype(), [&]<class T>() {
        with_flag(accumulate, [&]<bool adds>() {
            with_width<T>(half % dev::Vec<T>::size == 0 && aligned(y, x), [&]<int n>() {
                launch(rope_kernel<n, adds, T>,
                       {.grid = {x.dim(0)},
                        .threads = threads_for(width / 2 / n, most_threads),
                        .shared = sizeof(float) * static_cast<std::size_t>(head_dim)},
                       at<T>(y), at<T>(x), indices(positions), turns, width, half, inverse ? -1.0F : 1.0F);
            });
        });
    });
}

}  // namespace uipe::tensor::cuda
