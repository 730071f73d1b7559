// Sums and gathers over ranks, of tensors in the host's memory, by messages. Every rank's share of a sum comes to it
// from all others and is added up here, in a fixed order: as many bytes as a ring moves, and one rounding for bf16.
#pragma once

#include <cstdint>
#include <memory>

#include "tensor/comm/mpi/mpi.h"
#include "tensor/dtype.h"

namespace uipe::tensor::mpi {

/// How n elements are shared out: `share` for each rank in turn, while there are some.
struct Shares {
    std::int64_t n, share;
    std::int64_t begin(int rank) const { return n < rank * share ? n : rank * share; }
    std::int64_t size(int rank) const { return begin(rank + 1) - begin(rank); }
};

/// Where the others' numbers wait to be added: two buffers, one filled while the other is added.
class Staging {
public:
    /// `most`: bytes of a buffer, except that each rank may send `least` bytes at a time.
    explicit Staging(std::size_t most, std::size_t least = 0) : most_(most), least_(least) {}
    /// Elements of `size` bytes that each of `others` ranks may send at a time: at least one.
    std::int64_t piece(std::size_t size, int others) const;
    /// Buffer 0 or 1, of at least `bytes`.
    std::byte* buffer(int which, std::size_t bytes);

private:
    std::size_t most_, least_;
    std::unique_ptr<std::byte[]> buffers_[2];
    std::size_t sizes_[2] = {};
};

/// y = the sum over ranks of this rank's share of x. The sum begins with rank `first` and goes round. y may be that
/// share of x itself.
void reduce_scatter(const Link& link, Staging& staging, DType dtype, void* y, const void* x, const Shares& shares,
                    int first = 0);
/// y = every rank's share; this rank's is x, which may be there already.
void all_gather(const Link& link, DType dtype, void* y, const void* x, const Shares& shares);

}  // namespace uipe::tensor::mpi
