// Rotary position embedding. The angles depend on the position alone, so their sines are tabulated once for the
// positions of ordinary texts: computing them anew would cost more than the rotations.
#include <cmath>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "tensor/cpu/cpu.h"
#include "tensor/cpu/simd.h"
#include "tensor/parallel.h"

namespace uipe::tensor::cpu {
namespace {

constexpr std::int64_t tabulated = 4096;  // positions; those beyond are computed on the spot

/// D/2 cosines, then D/2 sines, of position * theta^(-2i/D). Angles are f64: an f32 angle near 4096 is off by 2e-4.
template <class A>
void rotation(A* y, std::int64_t position, std::int64_t D, double theta) {
    for (std::int64_t i = 0; i < D / 2; ++i) {
        const double frequency = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(D));
        const double angle = static_cast<double>(position) * frequency;
        y[i] = static_cast<A>(std::cos(angle));
        y[D / 2 + i] = static_cast<A>(std::sin(angle));
    }
}

/// [tabulated, D], made at the first call for each (D, theta) and kept: a program meets one or two.
template <class A>
const std::vector<A>& table_of(std::int64_t D, double theta) {
    static std::mutex mutex;
    static std::map<std::pair<std::int64_t, double>, std::vector<A>> tables;
    const std::lock_guard lock(mutex);
    std::vector<A>& table = tables[{D, theta}];
    if (table.empty()) {
        table.resize(static_cast<std::size_t>(tabulated * D));
        parallel_for(tabulated, 64, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t p = begin; p < end; ++p) rotation(table.data() + p * D, p, D, theta);
        });
    }
    return table;
}

/// One head: (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin), with the sine's sign turned for the inverse.
template <class Place, class T, class A>
void rotate(T* y, const T* x, const A* turn, std::int64_t half, A sign, bool accumulate) {
    each_vector<A, Place>(0, half, [=](auto at) {
        const auto cosine = at.load(turn);
        const auto sine = sign * at.load(turn + half);
        const auto x1 = at.load(x);
        const auto x2 = at.load(x + half);
        const auto y1 = x1 * cosine - x2 * sine;
        const auto y2 = x2 * cosine + x1 * sine;
        at.store(y, accumulate ? at.load(y) + y1 : y1);
        at.store(y + half, accumulate ? at.load(y + half) + y2 : y2);
    });
}

}  // namespace

void rope(const Tensor& y, const Tensor& x, const Tensor& positions, std::int64_t head_dim, double theta, bool inverse,
          bool accumulate) {
    const std::int64_t width = x.dim(1);
    const std::int32_t* position = positions.data<std::int32_t>();
    with_float(x.dtype(), [&]<class T>() {
        using A = acc_t<T>;
        const A* table = table_of<A>(head_dim, theta).data();
        T* out = y.data<T>();
        const T* in = x.data<T>();
        const A sign = inverse ? A{-1} : A{1};
        const bool streamed = !accumulate && outgrows_caches(out, y.numel(), head_dim / 2);
        parallel_for(x.dim(0), 16, [&](std::int64_t begin, std::int64_t end) {
            std::vector<A> beyond(static_cast<std::size_t>(head_dim));
            with_place(streamed, [&]<class Place>() {
                for (std::int64_t t = begin; t < end; ++t) {
                    const bool known = 0 <= position[t] && position[t] < tabulated;
                    if (!known) rotation(beyond.data(), position[t], head_dim, theta);
                    const A* turn = known ? table + position[t] * head_dim : beyond.data();
                    for (std::int64_t c = t * width; c < (t + 1) * width; c += head_dim)
                        rotate<Place>(out + c, in + c, turn, head_dim / 2, sign, accumulate);
                }
            });
        });
    });
}

}  // namespace uipe::tensor::cpu
