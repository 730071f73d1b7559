// Runs tests on every rank that a launcher started. `--device=cuda` has them exchange tensors of the device; with
// `--fail` the last rank throws, and with `--die` it is killed, while the others wait for it.
#include <gtest/gtest.h>

#include <csignal>
#include <cstdio>

#include "tensor/comm/launch.h"
#include "tests/comm/ranks.h"

namespace uipe::tensor::test {
namespace {

/// Every rank queues a sum, but the last one ends before its turn to wait comes.
void end(bool killed) {
    const auto comm = world(device());
    const Ticket ticket = comm->all_reduce(Tensor::full({1 << 20}, DType::f32, 1.0).to(device()));
    if (comm->rank() == comm->size() - 1) {
        if (killed) (void)std::raise(SIGKILL);
        throw Error("a planted failure");
    }
    comm->wait(ticket);
    comm->barrier();
}

int run(int argc, char** argv) {
    ::testing::InitGoogleTest(&argc, argv);
    for (int i = 1; i < argc; ++i) {
        const std::string argument = argv[i];
        if (argument == "--device=cuda") device() = device_named("cuda");
        if (argument == "--fail" || argument == "--die") end(argument == "--die");
    }
    return RUN_ALL_TESTS();
}

}  // namespace
}  // namespace uipe::tensor::test

int main(int argc, char** argv) {
    int status = 3;
    try {
        status = uipe::tensor::test::run(argc, argv);
    } catch (const std::exception& e) {
        std::fprintf(stderr, "test: %s%s\n", uipe::tensor::rank_label().c_str(), e.what());
    }
    return uipe::tensor::finish_ranks(status);
}
