#include <cstring>

#include "tensor/comm/comm.h"

namespace uipe::tensor {
namespace {

void copy_all(const Tensor& y, const Tensor& x) {
    require(y.dtype() == x.dtype() && y.numel() == x.numel(), "comm: one rank needs equal sizes, got ",
            to_string(y.shape()), " and ", to_string(x.shape()));
    if (y.raw() != x.raw() && x.nbytes() > 0) std::memcpy(y.raw(), x.raw(), x.nbytes());
}

class SelfComm final : public Comm {
public:
    int rank() const override { return 0; }
    int size() const override { return 1; }
    void all_reduce(const Tensor&) override {}
    void reduce_scatter(const Tensor& y, const Tensor& x) override { copy_all(y, x); }
    void all_gather(const Tensor& y, const Tensor& x) override { copy_all(y, x); }
    void broadcast(const Tensor&, int root) override {
        require(root == 0, "comm: broadcast from rank ", root, " of 1");
    }
    void barrier() override {}
};

}  // namespace

std::unique_ptr<Comm> self_comm() { return std::make_unique<SelfComm>(); }

}  // namespace uipe::tensor
