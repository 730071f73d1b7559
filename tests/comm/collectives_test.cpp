// Every queued call, for every type and for sizes that no piece divides, against what this rank computes for itself.
#include "tensor/comm/mpi/mpi_comm.h"
#include "tests/comm/ranks.h"
#ifdef UIPE_NCCL
#include "tensor/comm/nccl/nccl_comm.h"
#endif

namespace uipe::tensor::test {
namespace {

/// How ranks are joined: `fixed` sums in the order of ranks, and pieces so small that all is cut.
struct Join {
    const char* name;
    bool fixed;
    bool small;
};

std::unique_ptr<Comm> join(const Join& how) {
    auto comm = world(device(), how.fixed);
    if (!how.small || comm->size() == 1) return comm;
    comm.reset();  // ranks are joined once at a time
    comm = mpi_comm({.staging = 512, .piece = 0, .message = 200});
#ifdef UIPE_NCCL
    if (!on_cpu()) return nccl_comm(std::move(comm), how.fixed, 256);
#endif
    return comm;
}

class Collectives : public ::testing::TestWithParam<Join> {
protected:
    Collectives() : comm_(join(GetParam())) {}

    Comm& comm() { return *comm_; }
    int ranks() { return comm_->size(); }
    int rank() { return comm_->rank(); }
    /// Whether the bits of sums are known: of two numbers there is one sum.
    bool in_order() { return on_cpu() || GetParam().fixed || ranks() <= 2; }

    template <class Body>
    void each_case(const Body& body) {
        for (const DType dtype : types())
            for (const std::int64_t n : {std::int64_t{1}, std::int64_t{3}, std::int64_t{257}, std::int64_t{4099}}) {
                SCOPED_TRACE(cat(n, " of ", name_of(dtype), " among ", ranks(), " ranks"));
                body(n, dtype, static_cast<std::uint64_t>(n));
            }
    }

    void expect_sum(const Tensor& got, std::uint64_t draw, std::int64_t begin, std::int64_t all) {
        const std::int64_t n = got.numel();
        expect_near(here(got), part(sum_wanted(ranks(), draw, all, got.dtype()), begin, n), ranks());
        if (!in_order()) return;
        const Tensor want = sum_in_order(ranks(), draw, all, got.dtype()).rows(begin, begin + n);
        EXPECT_TRUE(same_bits(here(got), want));
    }

private:
    std::unique_ptr<Comm> comm_;
};

TEST_P(Collectives, AllReduceSumsOnAllRanks) {
    each_case([&](std::int64_t n, DType dtype, std::uint64_t draw) {
        const Tensor x = there(input(rank(), draw, n, dtype));
        comm().wait(comm().all_reduce(x));
        expect_sum(x, draw, 0, n);
    });
}

TEST_P(Collectives, ReduceScatterGivesEachRankItsShare) {
    each_case([&](std::int64_t n, DType dtype, std::uint64_t draw) {
        const std::int64_t all = n * ranks();
        const std::int64_t begin = n * rank();
        const Tensor x = there(input(rank(), draw, all, dtype));
        const Tensor y = poison_there(n, dtype);
        comm().wait(comm().reduce_scatter(y, x));
        expect_sum(y, draw, begin, all);
        EXPECT_TRUE(same_bits(here(x), input(rank(), draw, all, dtype)));  // only read
        const Tensor own = x.rows(begin, begin + n);
        comm().wait(comm().reduce_scatter(own, x));
        EXPECT_TRUE(same_bits(here(own.clone()), here(y)));
    });
}

TEST_P(Collectives, AllGatherPutsRanksInOrder) {
    each_case([&](std::int64_t n, DType dtype, std::uint64_t draw) {
        const Tensor want = gathered(ranks(), draw, n, dtype);
        const Tensor y = poison_there(n * ranks(), dtype);
        comm().wait(comm().all_gather(y, there(input(rank(), draw, n, dtype))));
        EXPECT_TRUE(same_bits(here(y), want));
        const Tensor z = poison_there(n * ranks(), dtype);
        const Tensor own = z.rows(n * rank(), n * (rank() + 1));
        copy(own, there(input(rank(), draw, n, dtype)));
        comm().wait(comm().all_gather(z, own));
        EXPECT_TRUE(same_bits(here(z), want));
    });
}

TEST_P(Collectives, BroadcastGivesTheRootsTensor) {
    each_case([&](std::int64_t n, DType dtype, std::uint64_t draw) {
        for (int root = 0; root < ranks(); ++root) {
            const Tensor x = there(input(rank(), draw, n, dtype));
            comm().wait(comm().broadcast(x, root));
            EXPECT_TRUE(same_bits(here(x), input(root, draw, n, dtype)));
        }
    });
}

TEST_P(Collectives, EmptyTensorsPass) {
    const Tensor x = Tensor::empty({0}, DType::f32, device());
    comm().wait(comm().all_reduce(x));
    comm().wait(comm().reduce_scatter(x, x));
    comm().wait(comm().all_gather(x, x));
    comm().wait(comm().broadcast(x, 0));
}

TEST_P(Collectives, ASumThenAGatherIsTheSumOnAllRanks) {
    const std::int64_t n = 1001;
    for (const DType dtype : types()) {
        if (!in_order()) break;
        const Tensor x = there(input(rank(), 7, n * ranks(), dtype));
        const Tensor y = x.clone();
        comm().all_reduce(x);
        const Tensor own = y.rows(n * rank(), n * (rank() + 1));
        comm().reduce_scatter(own, y);
        comm().wait(comm().all_gather(y, own));
        EXPECT_TRUE(same_bits(here(x), here(y)));
    }
}

TEST_P(Collectives, ALongQueueRunsBesideWhatIsComputed) {
    constexpr std::uint64_t count = 40;
    constexpr std::int64_t n = 1500;
    std::vector<Tensor> tensors;
    std::vector<Ticket> tickets;
    const Tensor other = Tensor::zeros({4096}, DType::f32, device());
    for (std::uint64_t i = 0; i < count; ++i) {
        const DType dtype = types()[i % types().size()];
        const Tensor x = there(input(rank(), i, n, dtype));
        if (i % 3 == 0) {
            tickets.push_back(comm().all_reduce(x));
            tensors.push_back(x);
        } else if (i % 3 == 1) {
            const Tensor y = poison_there(n * ranks(), dtype);
            tickets.push_back(comm().all_gather(y, x));  // x is let go of
            tensors.push_back(y);
        } else {
            tickets.push_back(comm().broadcast(x, static_cast<int>(i) % ranks()));
            tensors.push_back(x);
        }
        axpby(other, 1.0, other, 1.0);
        // Fresh memory, written at once: none of what the queue holds.
        fill(Tensor::empty({n}, dtype, device()), 99.0);
        if (i % 8 == 7) comm().wait(tickets[i - 5]);
    }
    comm().wait(tickets[count / 2]);
    for (std::uint64_t i = count; i-- > 0;) {
        comm().wait(tickets[i]);  // the last first: the rest have nothing to wait for
        const DType dtype = types()[i % types().size()];
        SCOPED_TRACE(cat("call ", i));
        if (i % 3 == 0)
            expect_sum(tensors[i], i, 0, n);
        else if (i % 3 == 1)
            EXPECT_TRUE(same_bits(here(tensors[i]), gathered(ranks(), i, n, dtype)));
        else
            EXPECT_TRUE(same_bits(here(tensors[i]), input(static_cast<int>(i) % ranks(), i, n, dtype)));
    }
}

TEST_P(Collectives, ACallBeginsAfterWhatWasQueuedBeforeIt) {
    const std::int64_t n = 5000;
    const Tensor x = there(input(rank(), 3, n, DType::f32));
    axpby(x, 1.0, x, 1.0);  // 2x
    comm().wait(comm().all_reduce(x));
    axpby(x, 0.25, x, 0.25);  // half of it, exactly
    expect_sum(x, 3, 0, n);
}

TEST_P(Collectives, CallsThatNobodyWaitedForAreDoneAtTheEnd) {
    const Tensor x = there(input(rank(), 5, 3000, DType::f32));
    const Tensor y = there(input(rank(), 6, 3000, DType::f32));
    comm().all_reduce(x);
    comm().all_reduce(y);
    comm().barrier();
    expect_sum(x, 5, 0, 3000);
}

TEST_P(Collectives, HostBytesOfAnyLengthAreGathered) {
    const auto bytes_of = [](int r) {
        return std::string(static_cast<std::size_t>(r == 1 ? 0 : 150 * (r + 1)), static_cast<char>('a' + r));
    };
    comm().all_reduce(there(input(rank(), 1, 3000, DType::f32)));  // goes before
    const std::vector<std::string> all = comm().gather(bytes_of(rank()));
    ASSERT_EQ(all.size(), static_cast<std::size_t>(ranks()));
    for (int r = 0; r < ranks(); ++r) EXPECT_EQ(all[static_cast<std::size_t>(r)], bytes_of(r));
}

TEST_P(Collectives, TrafficIsCountedByTheConventionOfZeRO) {
    const auto count = [&](std::uint64_t elements, std::uint64_t size) {
        return ranks() == 1 ? Traffic::Count{} : Traffic::Count{elements, elements * size};
    };
    const auto n = static_cast<std::uint64_t>(ranks()) * 10;
    const Tensor x = Tensor::zeros({ranks() * 10}, DType::f32, device());
    const Tensor y = Tensor::zeros({10}, DType::bf16, device());
    comm().all_reduce(x);
    comm().all_reduce(y);
    comm().reduce_scatter(x.rows(10 * rank(), 10 * (rank() + 1)), x);
    comm().all_gather(Tensor::empty({ranks() * 10}, DType::bf16, device()), y);
    comm().broadcast(y, 0);
    (void)comm().gather("not counted");
    const Traffic& t = comm().traffic();
    EXPECT_EQ(t.all_reduce.elements, count(2 * n + 20, 1).elements);
    EXPECT_EQ(t.all_reduce.bytes, count(8 * n + 40, 1).bytes);
    EXPECT_EQ(t.reduce_scatter, count(n, 4));
    EXPECT_EQ(t.all_gather, count(n, 2));
    EXPECT_EQ(t.broadcast, count(10, 2));
    EXPECT_EQ(t.total().elements, count(4 * n + 30, 1).elements);
    comm().reset_traffic();
    EXPECT_EQ(comm().traffic().total(), Traffic::Count{});
}

TEST_P(Collectives, WhatDoesNotFitIsRefusedBeforeItIsQueued) {
    const Tensor x = Tensor::zeros({6 * ranks()}, DType::f32, device());
    const auto some = [&](std::int64_t n, DType dtype) { return Tensor::zeros({n}, dtype, device()); };
    EXPECT_THROW(comm().reduce_scatter(some(5, DType::f32), x), Error);
    EXPECT_THROW(comm().all_gather(x, some(6, DType::bf16)), Error);
    EXPECT_THROW(comm().broadcast(x, ranks()), Error);
    EXPECT_THROW(comm().all_reduce(Tensor::zeros({3}, DType::i32)), Error);
    if (ranks() > 1) {
        const int next = (rank() + 1) % ranks();
        EXPECT_THROW(comm().reduce_scatter(x.rows(6 * next, 6 * (next + 1)), x), Error);
        EXPECT_THROW(comm().all_gather(x, x.rows(1, 7)), Error);
        EXPECT_THROW(mpi_comm(), Error);  // ranks are joined once at a time
    }
    EXPECT_EQ(comm().traffic().total(), Traffic::Count{});
    comm().barrier();
}

INSTANTIATE_TEST_SUITE_P(Ranks, Collectives,
                         ::testing::Values(Join{"whole", false, false}, Join{"cut", false, true},
                                           Join{"inOrder", true, false}, Join{"inOrderCut", true, true}),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace uipe::tensor::test
