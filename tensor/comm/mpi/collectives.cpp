#include "tensor/comm/mpi/collectives.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "tensor/base/error.h"
#include "tensor/cpu/simd.h"

namespace uipe::tensor::mpi {
namespace {

/// y[n] = from[0] + from[1] + …, in this order. y may be one of them.
template <class T>
void add_up(T* y, const std::vector<const T*>& from, std::int64_t n) {
    using Sum = std::conditional_t<std::is_same_v<T, double>, double, float>;
    cpu::parallel_vectors<Sum>(n, false, [&](auto at) {
        auto sum = at.load(from[0]);
        for (std::size_t r = 1; r < from.size(); ++r) sum += at.load(from[r]);
        at.store(y, sum);
    });
}

/// One reduce_scatter: its shares go through the staging buffers in rounds of one piece from each rank.
template <class T>
class Reduction {
public:
    Reduction(const Link& link, Staging& staging, T* y, const T* x, const Shares& shares, int first)
        : link_(link), staging_(staging), y_(y), x_(x), shares_(shares), first_(first) {
        piece_ = std::min(std::max<std::int64_t>(shares.share, 1), staging.piece(sizeof(T), link.size() - 1));
    }

    void run() {
        const std::int64_t rounds = ceil_div(shares_.share, piece_);
        Messages under_way[2] = {Messages(link_), Messages(link_)};
        for (std::int64_t round = 0; round <= rounds; ++round) {
            if (round < rounds) post(round, under_way[round % 2]);
            if (round > 0) {
                under_way[(round - 1) % 2].finish();
                add(round - 1);
            }
        }
    }

private:
    /// Elements of a rank's share in a round.
    std::int64_t count(int rank, std::int64_t round) const {
        return std::clamp<std::int64_t>(shares_.size(rank) - round * piece_, 0, piece_);
    }
    /// Where another rank's numbers come in.
    T* slot(int rank, std::int64_t round) const {
        const auto bytes = static_cast<std::size_t>((link_.size() - 1) * piece_) * sizeof(T);
        auto* buffer = reinterpret_cast<T*>(staging_.buffer(static_cast<int>(round % 2), bytes));
        return buffer + (rank < link_.rank() ? rank : rank - 1) * piece_;
    }

    /// Ranks at growing distances, so that not all send to one.
    void post(std::int64_t round, Messages& messages) const {
        const int ranks = link_.size();
        const int own = link_.rank();
        for (int step = 1; step < ranks; ++step) {
            const int from = (own - step + ranks) % ranks;
            const int to = (own + step) % ranks;
            messages.receive(from, slot(from, round), static_cast<std::size_t>(count(own, round)) * sizeof(T));
            messages.send(to, x_ + shares_.begin(to) + round * piece_,
                          static_cast<std::size_t>(count(to, round)) * sizeof(T));
        }
    }

    void add(std::int64_t round) const {
        const int ranks = link_.size();
        std::vector<const T*> from;
        for (int i = 0; i < ranks; ++i) {
            const int rank = (first_ + i) % ranks;
            from.push_back(rank == link_.rank() ? x_ + shares_.begin(rank) + round * piece_ : slot(rank, round));
        }
        add_up(y_ + round * piece_, from, count(link_.rank(), round));
    }

    const Link& link_;
    Staging& staging_;
    T* y_;
    const T* x_;
    Shares shares_;
    int first_;
    std::int64_t piece_;
};

}  // namespace

std::int64_t Staging::piece(std::size_t size, int others) const {
    const std::size_t bytes = std::max({most_ / static_cast<std::size_t>(std::max(1, others)), least_, size});
    return static_cast<std::int64_t>(bytes / size);
}

std::byte* Staging::buffer(int which, std::size_t bytes) {
    if (sizes_[which] < bytes) {
        buffers_[which] = std::make_unique_for_overwrite<std::byte[]>(bytes);
        sizes_[which] = bytes;
    }
    return buffers_[which].get();
}

void reduce_scatter(const Link& link, Staging& staging, DType dtype, void* y, const void* x, const Shares& shares,
                    int first) {
    const auto run = [&]<class T>(T* to) {
        Reduction<T>(link, staging, to, static_cast<const T*>(x), shares, first).run();
    };
    if (dtype == DType::f64) return run(static_cast<double*>(y));
    if (dtype == DType::f32) return run(static_cast<float*>(y));
    require(dtype == DType::bf16, "a sum over ranks of ", name_of(dtype));
    run(static_cast<bf16*>(y));
}

void all_gather(const Link& link, DType dtype, void* y, const void* x, const Shares& shares) {
    const auto bytes = [&](std::int64_t elements) { return static_cast<std::size_t>(elements) * size_of(dtype); };
    const auto place = [&](int rank) { return static_cast<std::byte*>(y) + bytes(shares.begin(rank)); };
    const int ranks = link.size();
    const int own = link.rank();
    Messages messages(link);
    for (int step = 1; step < ranks; ++step) {
        const int from = (own - step + ranks) % ranks;
        messages.receive(from, place(from), bytes(shares.size(from)));
        messages.send((own + step) % ranks, x, bytes(shares.size(own)));
    }
    if (place(own) != x && shares.size(own) > 0) std::memcpy(place(own), x, bytes(shares.size(own)));
    messages.finish();
}

}  // namespace uipe::tensor::mpi
