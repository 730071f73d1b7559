// A block of an emulated kernel: its threads as fibers, the order they run in, what they wait for, its shared memory.
#pragma once

#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "tensor/cuda/device/emulator.h"
#include "tensor/cuda/device/fiber.h"

namespace uipe::emulator {

constexpr int most_threads = 1024;
constexpr int most_warps = most_threads / 32;
constexpr std::size_t shared_size = std::size_t{1} << 18;
constexpr std::size_t most_shared = 99 * 1024;          // of a block, on every chip that we build for
constexpr std::size_t most_shared_hopper = 227 * 1024;  // of one for sm_90 alone
constexpr int most_groups = most_threads / 128;
constexpr int most_barriers = 64;
constexpr int most_named = 16;
constexpr std::size_t red_zone = 128;
constexpr std::uint32_t all_lanes = 0xffffffffU;

struct Copy {
    void* to;
    const void* from;  // nullptr: zeros
    int group;
};

struct Thread {
    Fiber fiber;
    const char* waits = nullptr;  // at which operation; nullptr: running or ready
    std::source_location where;
    bool finished = false;
    std::vector<Copy> copies;
    int group = 0;           // groups committed
    bool fenced = false;     // its registers, for products of its warpgroup
    int product_groups = 0;  // committed
};

/// Four warps.
struct Group {
    int arrived = 0;
    const char* operation = nullptr;
    std::source_location where;
    void* data[128] = {};
    std::vector<Issued> products;  // not waited for
    // All lanes wait for products of earlier groups than `due`, and `last`, the last to come, for their turn.
    bool waits = false;
    int due = 0, last = 0;
};

/// What an mbarrier counts.
struct Barrier {
    const void* place = nullptr;
    int arrivals = 0;        // of a phase
    int pending = 0;         // arrivals of this phase that are to come
    std::int64_t bytes = 0;  // announced less copied
    unsigned phase = 0;
    std::uint32_t waiting[most_warps] = {};  // lanes
    char tags[2] = {};                       // of its phases, by turns
};

/// A copy of a box that has not happened yet.
struct BoxCopy {
    std::byte* to;
    Map map;
    int at[3];
    Barrier* barrier;
};

/// bar.sync of some warps.
struct Named {
    int arrived = 0, threads = 0, turn = 0;
    std::uint32_t waiting[most_warps] = {};
    char tags[2] = {};
};

struct Warp {
    std::uint32_t ready = 0;    // lanes that may run
    std::uint32_t arrived = 0;  // lanes that met at `operation`
    const char* operation = nullptr;
    std::source_location where;
    void* data[32] = {};
    int turn = 0;
    char tags[2] = {};  // what sync_warp orders, by turns: a slow lane must not see what came after its own
};

class Block {
public:
    Block();
    void run(const Run& launch);

    void sync(const std::source_location& here);
    void meet(const char* operation, const std::source_location& here, void* data, void (*finish)(void* const*),
              bool orders);
    std::byte* shared_array(const void* key, std::size_t bytes);
    std::byte* dynamic_shared() { return shared_; }
    void check_shared(const void* p, const char* operation, const std::source_location& here, std::size_t bytes = 16);
    void check_aligned(const void* from, const char* operation, const std::source_location& here);
    Thread& thread() { return *threads_[static_cast<std::size_t>(state.thread)]; }

    void barrier_init(void* place, int arrivals, const std::source_location& here);
    void barrier_arrive(void* place, int bytes, const std::source_location& here);
    void barrier_wait(void* place, int parity, const std::source_location& here);
    void sync_some(int barrier, int threads, const std::source_location& here);
    void copy_box(void* shared, const Map& map, void* barrier, const int (&at)[3], const std::source_location& here);
    /// Waits until all lanes of the warpgroup are here; the last one calls finish().
    template <class Finish>
    void meet_group(const char* operation, const std::source_location& here, void* data, const Finish& finish);
    void product(const Product& p, const std::source_location& here);
    void product_wait(int pending, const std::source_location& here);

    static void entry();

private:
    void start();
    void finish_thread();
    int pick();
    void wait(const char* operation, const std::source_location& here);
    void run_next();
    /// Ends the block from within a fiber, after error_ was set. The frames of its fibers are never left: nothing they
    /// hold is destroyed, so no message may still be under construction.
    [[noreturn]] void abandon();
    /// The same, with the place of a fault of the running thread before it.
    [[noreturn]] void fail(const char* operation, const std::source_location& here, const char* what);
    std::string who_waits() const;
    Group& group() { return groups_[state.thread / 128]; }
    Barrier& barrier(void* place, const char* operation, const std::source_location& here);
    void end_phase(Barrier& b);
    void complete(const BoxCopy& copy);
    /// Makes one late copy of a box, or a warpgroup's late products; false when there are none.
    bool complete_a_box();
    bool complete_products();
    void end_products(Group& g);
    /// A block's end: nothing may be under way.
    void check_end();

    struct Array {
        const void* key;
        std::size_t begin;
    };

    std::mutex one_at_a_time_;
    const Run* launch_ = nullptr;
    Fiber main_{Fiber::Current{}};
    std::deque<std::unique_ptr<Thread>> threads_;
    Warp warps_[most_warps];
    std::byte* shared_ = nullptr;
    std::size_t used_ = 0;  // bytes of shared memory
    std::vector<Array> arrays_;
    std::size_t arrays_bytes_ = 0;
    int arrived_ = 0;
    std::source_location barrier_;
    int turn_ = 0;
    char barrier_tags_[2] = {};
    char start_tag_ = 0, end_tag_ = 0;
    int finished_ = 0;
    std::uint64_t random_ = 0;
    std::string error_;
    Group groups_[most_groups];
    Barrier barriers_[most_barriers];
    int barriers_used_ = 0;
    Named named_[most_named];
    std::vector<BoxCopy> boxes_;
    std::size_t first_box_ = 0;  // those before it are done
};

/// The one block that runs at a time.
Block& block();

/// "file:line".
std::string at(const std::source_location& place);
bool same(const std::source_location& a, const std::source_location& b);

}  // namespace uipe::emulator
