// A thread of its own works through the queue, so that ranks exchange tensors while the main thread computes.
#include "tensor/comm/mpi/mpi_comm.h"

#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

#include "tensor/comm/mpi/collectives.h"
#include "tensor/comm/mpi/mpi.h"
#include "tensor/parallel.h"

namespace uipe::tensor {
namespace {

/// Functions that a thread calls in turn. Shared with that thread, which may have to be left behind.
class Queue {
public:
    void push(std::function<void()> job) {
        const std::lock_guard lock(mutex_);
        jobs_.push_back(std::move(job));
        ++pushed_;
        changed_.notify_all();
    }
    /// Waits for the first `count` of all that were ever pushed. Throws what one of them threw.
    void wait(std::uint64_t count) {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return done_ >= count || failure_; });
        if (failure_) std::rethrow_exception(failure_);
    }
    std::uint64_t pushed() {
        const std::lock_guard lock(mutex_);
        return pushed_;
    }
    /// Nothing will be pushed any more. Whether all has been done.
    bool close() {
        const std::lock_guard lock(mutex_);
        closed_ = true;
        changed_.notify_all();
        return done_ == pushed_;
    }
    /// The thread's work: until the queue is closed and empty, or a job has failed.
    void run() {
        std::unique_lock lock(mutex_);
        for (;;) {
            changed_.wait(lock, [&] { return closed_ || !jobs_.empty(); });
            if (jobs_.empty()) return;
            const std::function<void()> job = std::move(jobs_.front());
            jobs_.pop_front();
            lock.unlock();
            std::exception_ptr failure;
            try {
                job();
            } catch (...) {
                failure = std::current_exception();
            }
            lock.lock();
            failure_ = failure;
            if (!failure) ++done_;
            changed_.notify_all();
            if (failure) return;
        }
    }

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<std::function<void()>> jobs_;
    std::uint64_t pushed_ = 0, done_ = 0;
    bool closed_ = false;
    std::exception_ptr failure_;
};

std::atomic<bool> exists{false};  // one MpiComm: two threads would be in MPI at once

class MpiComm final : public Comm {
public:
    explicit MpiComm(const MpiLimits& limits) {
        require(!exists, "ranks can be joined once at a time");
        all_ = std::make_shared<All>(limits);
        exists = true;
        // Sums wait for memory, which a few threads use up; the others are the main thread's.
        const int threads = std::min(4, num_threads());
        thread_ = std::thread([all = all_, threads] {
            set_num_threads(threads);
            all->queue.run();
        });
    }

    ~MpiComm() override {
        const bool idle = all_->queue.close();
        if (!idle && std::uncaught_exceptions() > 0) {  // the others may never come to the calls that are queued
            mpi::abandon();
            thread_.detach();
        } else {
            thread_.join();
            exists = false;
        }
    }

    int rank() const override { return all_->link.rank(); }
    int size() const override { return all_->link.size(); }

    void wait(Ticket ticket) override {
        std::deque<Held>& held = all_->held;
        std::uint64_t job = 0;
        for (const Held& h : held)
            if (h.ticket <= ticket) job = h.job;
        all_->queue.wait(job);
        while (!held.empty() && held.front().ticket <= ticket) held.pop_front();
    }

    void barrier() override {
        run([this] { all_->link.meet(); });
    }

    std::vector<std::string> gather(const std::string& bytes) override {
        std::vector<std::string> out;
        run([&] {
            all_->link.meet();
            out = all_->link.gather(bytes);
        });
        return out;
    }

private:
    /// Tensors of a call that has not been waited for.
    struct Held {
        Ticket ticket;
        std::uint64_t job;
        Call call;
    };
    /// What the thread uses, and has to find when it is left behind.
    struct All {
        explicit All(const MpiLimits& limits) : link(limits.message), staging(limits.staging, limits.piece) {}
        mpi::Link link;
        mpi::Staging staging;
        Queue queue;
        std::deque<Held> held;  // the main thread's alone
    };

    /// Queues a job and waits for it.
    void run(std::function<void()> job) {
        all_->queue.push(std::move(job));
        all_->queue.wait(all_->queue.pushed());
    }

    void start(Ticket ticket, const Call& call) override {
        require(call.x.device().kind == Device::Kind::cpu, "ranks joined by MPI exchange tensors on the CPU, not on ",
                name_of(call.x.device()));
        // Addresses, not tensors: it is the main thread that lets go of these, at a time that does not vary.
        all_->queue.push([all = all_.get(), kind = call.kind, dtype = call.x.dtype(), y = call.y.raw(),
                          x = call.x.raw(), n = std::max(call.x.numel(), call.y.numel()), bytes = call.x.nbytes(),
                          root = call.root] {
            const mpi::Link& link = all->link;
            if (n == 0) return;
            link.meet();
            const mpi::Shares shares{n, ceil_div(n, link.size())};
            switch (kind) {
                case Kind::all_reduce: {
                    void* own = static_cast<std::byte*>(x) +
                                static_cast<std::size_t>(shares.begin(link.rank())) * size_of(dtype);
                    mpi::reduce_scatter(link, all->staging, dtype, own, x, shares);
                    return mpi::all_gather(link, dtype, x, own, shares);
                }
                case Kind::reduce_scatter:
                    return mpi::reduce_scatter(link, all->staging, dtype, y, x, shares);
                case Kind::all_gather:
                    return mpi::all_gather(link, dtype, y, x, shares);
                case Kind::broadcast:
                    return link.broadcast(x, bytes, root);
            }
        });
        all_->held.push_back({ticket, all_->queue.pushed(), call});
    }

    std::shared_ptr<All> all_;
    std::thread thread_;
};

}  // namespace

std::unique_ptr<Comm> mpi_comm(const MpiLimits& limits) { return std::make_unique<MpiComm>(limits); }

}  // namespace uipe::tensor
