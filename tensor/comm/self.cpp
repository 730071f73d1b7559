#include "tensor/comm/comm.h"
#include "tensor/ops.h"

namespace uipe::tensor {
namespace {

class SelfComm final : public Comm {
public:
    int rank() const override { return 0; }
    int size() const override { return 1; }
    void wait(Ticket /*ticket*/) override {}
    void barrier() override {}
    std::vector<std::string> gather(const std::string& bytes) override { return {bytes}; }

private:
    void start(Ticket /*ticket*/, const Call& call) override {
        const Shape flat{call.y.numel()};
        if (call.y.raw() != call.x.raw()) copy(call.y.view(flat), call.x.view(flat));
    }
};

}  // namespace

std::unique_ptr<Comm> self_comm() { return std::make_unique<SelfComm>(); }

}  // namespace uipe::tensor
