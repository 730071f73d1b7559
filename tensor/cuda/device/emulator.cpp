#include "tensor/cuda/device/emulator.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <sstream>
#include <vector>

#include "tensor/base/error.h"
#include "tensor/cuda/device/fiber.h"
#include "tensor/dtype.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif
#if defined(UIPE_RACES)
#include <sanitizer/tsan_interface.h>
// Tells the detector of accesses that the emulator makes for a kernel.
extern "C" void __tsan_read_range(void* p, unsigned long size);
extern "C" void __tsan_write_range(void* p, unsigned long size);
extern "C" void AnnotateIgnoreWritesBegin(const char* file, int line);
extern "C" void AnnotateIgnoreWritesEnd(const char* file, int line);
#endif

namespace uipe::emulator {

State state;

namespace {

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

// --- What the sanitizers are told -----------------------------------------------------------------------------------

void happens_after([[maybe_unused]] void* tag) {
#if defined(UIPE_RACES)
    __tsan_acquire(tag);
#endif
}
void happens_before([[maybe_unused]] void* tag) {
#if defined(UIPE_RACES)
    __tsan_release(tag);
#endif
}
void reads([[maybe_unused]] const void* p, [[maybe_unused]] std::size_t bytes) {
#if defined(UIPE_RACES)
    __tsan_read_range(const_cast<void*>(p), bytes);
#endif
}
void writes([[maybe_unused]] void* p, [[maybe_unused]] std::size_t bytes) {
#if defined(UIPE_RACES)
    __tsan_write_range(p, bytes);
#endif
}
/// While it lives, what the emulator keeps for itself is none of the detector's business, which sees the memset and
/// memmove that a compiler may make of that.
class OwnMemory {
public:
#if defined(UIPE_RACES)
    OwnMemory() { AnnotateIgnoreWritesBegin(__FILE__, __LINE__); }
    ~OwnMemory() { AnnotateIgnoreWritesEnd(__FILE__, __LINE__); }
#else
    OwnMemory() {}
#endif
    OwnMemory(const OwnMemory&) = delete;
    OwnMemory& operator=(const OwnMemory&) = delete;
};

/// body() as if by another thread, the copy engine, after what this one has done: nothing else orders what it does.
template <class Body>
void by_engine(const Body& body) {
#if defined(UIPE_RACES)
    static void* const engine = __tsan_create_fiber(0);
    static char tag = 0;
    void* const me = __tsan_get_current_fiber();
    happens_before(&tag);
    __tsan_switch_to_fiber(engine, 1);
    happens_after(&tag);
    body();
    __tsan_switch_to_fiber(me, 1);
#else
    body();
#endif
}
void forbid([[maybe_unused]] void* p, [[maybe_unused]] std::size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
    __asan_poison_memory_region(p, bytes);
#endif
}
void allow([[maybe_unused]] void* p, [[maybe_unused]] std::size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(p, bytes);
#endif
}

/// Not by memset: the race detector would take that for a write of the thread that runs.
void poison(std::byte* p, std::size_t bytes) {
    for (std::size_t i = 0; i < bytes; ++i) {
        p[i] = static_cast<std::byte>(options().poison);
        asm volatile("" ::: "memory");
    }
}

std::string at(const std::source_location& place) {
    const std::string file = place.file_name();
    return cat(file.substr(file.find_last_of('/') + 1), ":", place.line());
}

bool same(const std::source_location& a, const std::source_location& b) {
    return a.line() == b.line() && a.column() == b.column() && std::strcmp(a.file_name(), b.file_name()) == 0;
}

// --- A block --------------------------------------------------------------------------------------------------------

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
    std::string who_waits() const;
    /// The same, with the place of a fault of the running thread before it.
    [[noreturn]] void fail(const char* operation, const std::source_location& here, const char* what);
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

Block& block() {
    static auto* instance = new Block;  // never destroyed: fibers are needed until the last launch
    return *instance;
}

Block::Block() {
    void* p = ::mmap(nullptr, shared_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(p != MAP_FAILED, "no memory for the emulator");
    shared_ = static_cast<std::byte*>(p);
    arrays_.reserve(64);
    boxes_.reserve(1024);
    for (Group& group : groups_) group.products.reserve(64);
}

void Block::run(const Run& launch) {
    const std::lock_guard lock(one_at_a_time_);
    main_.~Fiber();  // the caller may be another thread than the last one
    new (&main_) Fiber(Fiber::Current{});
    launch_ = &launch;
    random_ = options().seed * 0x9E3779B97F4A7C15U + 1;
    while (threads_.size() < static_cast<std::size_t>(launch.threads)) {
        threads_.push_back(std::make_unique<Thread>());
        threads_.back()->copies.reserve(256);
    }
    state.threads = launch.threads;
    std::copy(std::begin(launch.blocks), std::end(launch.blocks), std::begin(state.blocks));
    ++statistics().launches;
    const int count = launch.blocks[0] * launch.blocks[1] * launch.blocks[2];
    for (int i = 0; i < count; ++i) {
        const int b = options().order == Order::reverse ? count - 1 - i : i;
        state.block[0] = b % launch.blocks[0];
        state.block[1] = b / launch.blocks[0] % launch.blocks[1];
        state.block[2] = b / launch.blocks[0] / launch.blocks[1];
        start();
        if (!error_.empty()) {
            const std::string message =
                cat("kernel launched at ", at(launch.where), ", block ", b, " of ", count, ": ", error_);
            error_.clear();
            throw Error(message);
        }
    }
}

/// Runs one block to its end, or to its first fault.
void Block::start() {
    ++statistics().blocks;
    allow(shared_, shared_size);
    forbid(shared_, shared_size);
    allow(shared_, launch_->shared);
    poison(shared_, launch_->shared);
    used_ = (launch_->shared + red_zone + 127) / 128 * 128;
    arrays_.clear();
    arrays_bytes_ = 0;
    arrived_ = finished_ = 0;
    for (int w = 0; w < launch_->threads / 32; ++w) {
        warps_[w].ready = all_lanes;
        warps_[w].arrived = 0;
    }
    for (int t = 0; t < launch_->threads; ++t) {
        Thread& thread = *threads_[static_cast<std::size_t>(t)];
        thread.waits = nullptr;
        thread.finished = false;
        thread.copies.clear();
        thread.group = 0;
        thread.fenced = false;
        thread.product_groups = 0;
        thread.fiber.start(entry);
    }
    for (Group& group : groups_) {
        group.arrived = 0;
        group.waits = false;
        group.products.clear();
    }
    barriers_used_ = 0;
    for (Named& named : named_) named = {};
    boxes_.clear();
    first_box_ = 0;
    happens_before(&start_tag_);
    state.thread = 0;
    state.thread = pick();
    main_.switch_to(thread().fiber);
    happens_after(&end_tag_);
}

void Block::entry() {
    Fiber::entered();
    Block& self = block();
    happens_after(&self.start_tag_);
    self.launch_->body(self.launch_->argument);
    self.finish_thread();
}

void Block::finish_thread() {
    Thread& me = thread();
    happens_before(&end_tag_);
    me.finished = true;
    ++finished_;
    if (finished_ == launch_->threads) {
        check_end();
        happens_before(&end_tag_);  // its message too
        me.fiber.switch_to(main_);
    }
    run_next();
}

void Block::check_end() {
    if (first_box_ != boxes_.size()) error_ = "it ends while copies of boxes are under way";
    for (int i = 0; i < barriers_used_; ++i)
        if (barriers_[i].bytes != 0)
            error_ =
                cat("it ends with a barrier that was told of ", barriers_[i].bytes, " bytes more than were copied");
    for (const Group& group : groups_)
        if (!group.products.empty()) error_ = "it ends with products that were not waited for";
}

/// The thread that runs next, now no longer marked ready; -1 when none can.
int Block::pick() {
    const int warps = launch_->threads / 32;
    const Order order = options().order;
    int first = state.thread / 32;
    if (order == Order::random) {
        random_ ^= random_ << 13;
        random_ ^= random_ >> 7;
        random_ ^= random_ << 17;
        first = static_cast<int>(random_ >> 33) % warps;
    }
    for (int i = 0; i < warps; ++i) {
        const int w = order == Order::reverse ? (first - i + warps) % warps : (first + i) % warps;
        const std::uint32_t ready = warps_[w].ready;
        if (ready == 0) continue;
        int l = std::countr_zero(ready);
        if (order == Order::reverse) l = 31 - std::countl_zero(ready);
        if (order == Order::random) {
            const int turn = static_cast<int>(random_ % 32);
            l = (std::countr_zero(std::rotr(ready, turn)) + turn) % 32;
        }
        warps_[w].ready &= ~(1U << l);
        return w * 32 + l;
    }
    return -1;
}

/// Leaves the running thread, which is marked ready elsewhere or never again.
void Block::run_next() {
    Thread& me = thread();
    int next = pick();
    while (next < 0 && (complete_a_box() || complete_products())) next = pick();
    if (next == state.thread) return;  // what it waited for came
    if (next < 0) {
        error_ = cat("it waits for ever: ", who_waits());
        abandon();
    }
    state.thread = next;
    me.fiber.switch_to(thread().fiber);
}

void Block::wait(const char* operation, const std::source_location& here) {
    Thread& me = thread();
    const int self = state.thread;
    me.waits = operation;
    me.where = here;
    happens_before(&end_tag_);  // should the block fail, this thread never ends
    run_next();
    state.thread = self;
    me.waits = nullptr;
}

void Block::abandon() {
    happens_before(&end_tag_);
    thread().fiber.switch_to(main_);
    std::abort();  // a block that failed does not go on
}

/// "threads 0-31 at sync (f.cu:9), 32-63 finished".
std::string Block::who_waits() const {
    const auto place = [this](int t) {
        const Thread& thread = *threads_[static_cast<std::size_t>(t)];
        return thread.finished ? std::string("finished") : cat("at ", thread.waits, " (", at(thread.where), ")");
    };
    std::string text = "threads ";
    for (int t = 0; t < launch_->threads;) {
        int end = t + 1;
        while (end < launch_->threads && place(end) == place(t)) ++end;
        text += cat(t == 0 ? "" : ", ", t, "-", end - 1, " ", place(t));
        t = end;
    }
    return text;
}

void Block::sync(const std::source_location& here) {
    if (arrived_ == 0) barrier_ = here;
    if (!same(barrier_, here)) {
        error_ =
            cat("thread ", state.thread, " is at the sync of ", at(here), ", others are at that of ", at(barrier_));
        abandon();
    }
    const int turn = turn_;
    happens_before(&barrier_tags_[turn]);
    if (++arrived_ < launch_->threads) {
        wait("sync", here);
    } else {
        arrived_ = 0;
        turn_ = 1 - turn_;
        for (int w = 0; w < launch_->threads / 32; ++w) warps_[w].ready = all_lanes;
        warps_[state.thread / 32].ready &= ~(1U << (state.thread % 32));
    }
    happens_after(&barrier_tags_[turn]);
}

void Block::meet(const char* operation, const std::source_location& here, void* data, void (*finish)(void* const*),
                 bool orders) {
    Warp& warp = warps_[state.thread / 32];
    const int lane = state.thread % 32;
    if (warp.arrived == 0) {
        warp.operation = operation;
        warp.where = here;
    }
    if (warp.operation != operation || !same(warp.where, here)) {
        error_ = cat("thread ", state.thread, " is at ", operation, " (", at(here), "), others of its warp are at ",
                     warp.operation, " (", at(warp.where), ")");
        abandon();
    }
    const int turn = warp.turn;
    if (orders) happens_before(&warp.tags[turn]);
    warp.data[lane] = data;
    warp.arrived |= 1U << lane;
    if (warp.arrived != all_lanes) {
        wait(operation, here);
    } else {
        if (finish != nullptr) finish(warp.data);
        warp.arrived = 0;
        if (orders) warp.turn = 1 - turn;
        warp.ready = all_lanes & ~(1U << lane);
    }
    if (orders) happens_after(&warp.tags[turn]);
}

std::byte* Block::shared_array(const void* key, std::size_t bytes) {
    for (const Array& array : arrays_)
        if (array.key == key) return shared_ + array.begin;
    const std::size_t begin = used_;
    arrays_bytes_ += bytes;
    const std::size_t most = launch_->shared > most_shared ? most_shared_hopper : most_shared;
    if (launch_->shared + arrays_bytes_ > most || begin + bytes + red_zone > shared_size) {
        error_ = cat("its shared arrays take ", arrays_bytes_, " bytes beside the ", launch_->shared,
                     " asked for at launch: more than ", most, " in all");
        abandon();
    }
    allow(shared_ + begin, bytes);
    poison(shared_ + begin, bytes);
    used_ = (begin + bytes + red_zone + 127) / 128 * 128;
    arrays_.push_back({key, begin});
    return shared_ + begin;
}

void Block::check_shared(const void* p, const char* operation, const std::source_location& here, std::size_t bytes) {
    const auto address = reinterpret_cast<std::uintptr_t>(p);
    const auto begin = reinterpret_cast<std::uintptr_t>(shared_);
    const bool dynamic = begin <= address && address + bytes <= begin + launch_->shared;
    bool inside = dynamic;
    for (const Array& array : arrays_)
        inside = inside || (begin + array.begin <= address && address + bytes <= begin + used_ - red_zone);
    if (!inside || address % bytes != 0) {
        error_ = cat("thread ", state.thread, ": ", operation, " (", at(here), ") at byte ",
                     static_cast<std::int64_t>(address - begin), " of shared memory, ",
                     inside ? cat("not aligned to ", bytes) : "outside it");
        abandon();
    }
}

void Block::check_aligned(const void* from, const char* operation, const std::source_location& here) {
    if (reinterpret_cast<std::uintptr_t>(from) % 16 != 0) {
        error_ =
            cat("thread ", state.thread, ": ", operation, " (", at(here), ") from global memory not aligned to 16");
        abandon();
    }
}

// --- sm_90 ----------------------------------------------------------------------------------------------------------

void Block::fail(const char* operation, const std::source_location& here, const char* what) {
    error_ = cat("thread ", state.thread, ": ", operation, " (", at(here), ") ", what);
    abandon();
}

Barrier& Block::barrier(void* place, const char* operation, const std::source_location& here) {
    for (int i = 0; i < barriers_used_; ++i)
        if (barriers_[i].place == place) {
            reads(place, 8);
            return barriers_[i];
        }
    fail(operation, here, "at a barrier that was not initialised");
}

void Block::barrier_init(void* place, int arrivals, const std::source_location& here) {
    check_shared(place, "barrier_init", here, 8);
    for (int i = 0; i < barriers_used_; ++i)
        if (barriers_[i].place == place) fail("barrier_init", here, "at a barrier for the second time");
    if (barriers_used_ == most_barriers) fail("barrier_init", here, "at one barrier more than the emulator has");
    writes(place, 8);
    Barrier& b = barriers_[barriers_used_++];
    b.place = place;
    b.arrivals = b.pending = arrivals;
    b.bytes = 0;
    b.phase = 0;
    std::fill(std::begin(b.waiting), std::end(b.waiting), 0U);
}

/// Lets those who wait go on if all have arrived and all bytes are there.
void Block::end_phase(Barrier& b) {
    if (b.pending != 0 || b.bytes != 0) return;
    b.pending = b.arrivals;
    ++b.phase;
    for (int w = 0; w < launch_->threads / 32; ++w) {
        warps_[w].ready |= b.waiting[w];
        b.waiting[w] = 0;
    }
}

void Block::barrier_arrive(void* place, int bytes, const std::source_location& here) {
    Barrier& b = barrier(place, "barrier_arrive", here);
    if (b.pending == 0) fail("barrier_arrive", here, "at a barrier where all have arrived");
    happens_before(&b.tags[b.phase % 2]);
    b.bytes += bytes;
    --b.pending;
    end_phase(b);
}

void Block::barrier_wait(void* place, int parity, const std::source_location& here) {
    Barrier& b = barrier(place, "barrier_wait", here);
    while (b.phase % 2 == static_cast<unsigned>(parity)) {
        b.waiting[state.thread / 32] |= 1U << (state.thread % 32);
        wait("barrier_wait", here);
    }
    happens_after(&b.tags[parity]);
}

void Block::sync_some(int barrier, int threads, const std::source_location& here) {
    if (barrier <= 0 || barrier >= most_named || threads % 32 != 0)
        fail("sync_some", here, "of a barrier that is not 1 to 15, or of parts of warps");
    Named& named = named_[barrier];
    if (named.arrived == 0) named.threads = threads;
    if (named.threads != threads) fail("sync_some", here, "of another number of threads than those who wait");
    const int turn = named.turn;
    happens_before(&named.tags[turn]);
    if (++named.arrived < threads) {
        named.waiting[state.thread / 32] |= 1U << (state.thread % 32);
        wait("sync_some", here);
    } else {
        named.arrived = 0;
        named.turn = 1 - turn;
        for (int w = 0; w < launch_->threads / 32; ++w) {
            warps_[w].ready |= named.waiting[w];
            named.waiting[w] = 0;
        }
    }
    happens_after(&named.tags[turn]);
}

/// Elements outside the tensor are zeros; the box counts all its bytes at the barrier.
void Block::complete(const BoxCopy& copy) {
    const Map& map = copy.map;
    const auto inside = [&map](int dimension, std::int64_t i) { return 0 <= i && i < map.sizes[dimension]; };
    std::uint32_t byte = shared_address(copy.to);
    const int rows = map.box[1] * map.box[2];
    for (int row = 0; row < rows; ++row) {
        const std::int64_t y = copy.at[1] + row % map.box[1];
        const std::int64_t z = copy.at[2] + row / map.box[1];
        const bool row_inside = inside(1, y) && inside(2, z);
        const std::uintptr_t from = map.base + static_cast<std::uintptr_t>(z * map.strides[1] + y * map.strides[0]);
        for (int x = 0; x < map.box[0]; ++x, byte += 2) {
            std::uint16_t value = 0;
            const std::int64_t column = copy.at[0] + x;
            if (row_inside && inside(0, column))
                __builtin_memcpy(&value, reinterpret_cast<const void*>(from + static_cast<std::uintptr_t>(column) * 2),
                                 2);
            __builtin_memcpy(shared_ + swizzled(byte, map.span), &value, 2);
        }
    }
    ++statistics().boxes;
    copy.barrier->bytes -= std::int64_t{2} * map.box[0] * rows;
    end_phase(*copy.barrier);
}

bool Block::complete_a_box() {
    if (first_box_ == boxes_.size()) return false;
    const bool last = options().order == Order::reverse;  // they may come in any order
    const BoxCopy copy = last ? boxes_.back() : boxes_[first_box_];
    if (last)
        boxes_.pop_back();
    else
        ++first_box_;
    complete(copy);
    return true;
}

void Block::copy_box(void* shared, const Map& map, void* place, const int (&at)[3], const std::source_location& here) {
    Barrier& b = barrier(place, "copy_box", here);
    const std::size_t bytes = std::size_t{2} * static_cast<std::size_t>(map.box[0] * map.box[1] * map.box[2]);
    auto* to = static_cast<std::byte*>(shared);
    check_shared(to, "copy_box", here);
    check_shared(to + bytes - 16, "copy_box", here);
    if (shared_address(to) % 128 != 0) fail("copy_box", here, "to an address that is not a multiple of 128");
    // The race detector is told now, whenever it happens: that is before the end of the barrier's phase.
    by_engine([&] {
        writes(shared, bytes);
        for (int row = 0; row < map.box[1] * map.box[2]; ++row) {
            const std::int64_t y = at[1] + row % map.box[1];
            const std::int64_t z = at[2] + row / map.box[1];
            const std::int64_t columns = std::min<std::int64_t>(map.box[0], map.sizes[0] - at[0]);
            if (0 <= y && y < map.sizes[1] && 0 <= z && z < map.sizes[2] && at[0] >= 0 && columns > 0)
                reads(reinterpret_cast<const void*>(
                          map.base + static_cast<std::uintptr_t>(z * map.strides[1] + y * map.strides[0] + at[0] * 2)),
                      static_cast<std::size_t>(columns) * 2);
        }
        happens_before(&b.tags[b.phase % 2]);
        happens_before(&end_tag_);
    });
    const BoxCopy copy{to, map, {at[0], at[1], at[2]}, &b};
    if (options().late_copies)
        boxes_.push_back(copy);
    else
        complete(copy);
}

template <class Finish>
void Block::meet_group(const char* operation, const std::source_location& here, void* data, const Finish& finish) {
    Group& g = group();
    const int first = state.thread / 128 * 4;
    if (g.arrived == 0) {
        g.operation = operation;
        g.where = here;
    }
    if (g.operation != operation || !same(g.where, here)) {
        error_ = cat("thread ", state.thread, " is at ", operation, " (", at(here),
                     "), others of its warpgroup are at ", g.operation, " (", at(g.where), ")");
        abandon();
    }
    g.data[state.thread % 128] = data;
    if (++g.arrived < 128) return wait(operation, here);
    finish(g);
    g.arrived = 0;
    for (int w = first; w < first + 4; ++w) warps_[w].ready = all_lanes;
    warps_[state.thread / 32].ready &= ~(1U << (state.thread % 32));
}

/// Calls body(byte) for each 16 bytes of shared memory that a product reads.
template <class Body>
void for_each_chunk(const Product& p, const Body& body) {
    for (int i = 0; i < 64 && p.a == nullptr; ++i)
        for (int k = 0; k < 16; k += 8) body(place(p.a_matrix, false, i, k));
    for (int j = 0; j < p.N; j += p.across ? 8 : 1)
        for (int k = 0; k < 16; k += p.across ? 1 : 8) body(place(p.b_matrix, p.across, j, k));
}

void Block::product(const Product& p, const std::source_location& here) {
    if (!thread().fenced) fail("multiply", here, "without products_begin() since the last wait");
    if (state.thread % 32 == 0) for_each_chunk(p, [this](std::uint32_t byte) { reads(shared_ + byte, 16); });
    Product mine = p;
    meet_group("multiply", here, &mine, [&](Group& g) {
        for_each_chunk(p, [&](std::uint32_t byte) { check_shared(shared_ + byte, "multiply", here); });
        {
            const OwnMemory own;
            g.products.emplace_back();
        }
        Issued& issued = g.products.back();
        issued.common = p;
        issued.group = thread().product_groups;
        for (int l = 0; l < 128; ++l) {
            const Product& lane = *static_cast<const Product*>(g.data[l]);
            if (lane.a_matrix != p.a_matrix || lane.b_matrix != p.b_matrix)
                fail("multiply", here, "with other matrices than others of its warpgroup");
            issued.d[l] = lane.d;
            issued.a[l] = lane.a;
        }
        issued.done = options().late_copies;
        if (issued.done) multiply(issued, shared_);
    });
}

void Block::product_wait(int pending, const std::source_location& here) {
    Thread& me = thread();
    const int due = me.product_groups - pending;  // earlier ones
    // The lane that lets go of buffers is the first of its warp: the products read until now.
    if (state.thread % 32 == 0)
        for (const Issued& p : group().products)
            if (p.group < due) for_each_chunk(p.common, [this](std::uint32_t byte) { reads(shared_ + byte, 16); });
    me.fenced = false;
    meet_group("products_wait", here, nullptr, [&](Group& g) {
        g.due = due;
        if (options().late_copies) return end_products(g);
        g.waits = true;  // until nobody else can go on
        g.last = state.thread;
        wait("products_wait", here);
    });
}

void Block::end_products(Group& g) {
    for (const Issued& p : g.products)
        if (p.group < g.due && !p.done) multiply(p, shared_);
    const OwnMemory own;
    std::erase_if(g.products, [&](const Issued& p) { return p.group < g.due; });
}

bool Block::complete_products() {
    for (int i = 0; i < launch_->threads / 128; ++i) {
        Group& g = groups_[i];
        if (!g.waits) continue;
        g.waits = false;
        end_products(g);
        warps_[g.last / 32].ready |= 1U << (g.last % 32);
        return true;
    }
    return false;
}

/// UIPE_EMULATOR as options; InputError names the word that is none.
Options options_of_environment() {
    Options o;
    const char* text = std::getenv("UIPE_EMULATOR");
    std::istringstream words(text == nullptr ? "" : text);
    for (std::string word; words >> word;) {
        int read = 0;
        unsigned poison = 0;
        unsigned long long seed = 0;
        if (word == "order=forward" || word == "order=reverse") {
            o.order = word == "order=forward" ? Order::forward : Order::reverse;
        } else if (std::sscanf(word.c_str(), "order=random:%llu%n", &seed, &read) == 1 && word[read] == '\0') {
            o.order = Order::random;
            o.seed = seed;
        } else if (word == "copies=early" || word == "copies=late") {
            o.late_copies = word == "copies=late";
        } else if (std::sscanf(word.c_str(), "poison=%2x%n", &poison, &read) == 1 && word[read] == '\0') {
            o.poison = static_cast<std::uint8_t>(poison);
        } else {
            throw InputError(cat("UIPE_EMULATOR: '", word,
                                 "' is none of order=forward|reverse|random:SEED, copies=early|late, poison=HEX"));
        }
    }
    return o;
}

void complete(const Copy& copy) {
    writes(copy.to, 16);
    if (copy.from == nullptr) {
        std::memset(copy.to, 0, 16);
    } else {
        reads(copy.from, 16);
        std::memcpy(copy.to, copy.from, 16);
    }
}

}  // namespace

Options& options() {
    static Options instance = options_of_environment();
    return instance;
}

Statistics& statistics() {
    static Statistics instance;
    return instance;
}

void run(const Run& launch) { block().run(launch); }

void sync(const std::source_location& here) { block().sync(here); }
void sync_warp(const std::source_location& here) { block().meet("sync_warp", here, nullptr, nullptr, true); }
void meet(const char* operation, const std::source_location& here, void* data, void (*finish)(void* const* lanes)) {
    block().meet(operation, here, data, finish, false);
}

std::uint32_t ballot(bool yes, const std::source_location& here) {
    struct Data {
        bool yes;
        std::uint32_t result;
    } data{yes, 0};
    meet("ballot", here, &data, [](void* const* lanes) {
        std::uint32_t all = 0;
        for (int l = 0; l < 32; ++l) all |= static_cast<std::uint32_t>(static_cast<const Data*>(lanes[l])->yes) << l;
        for (int l = 0; l < 32; ++l) static_cast<Data*>(lanes[l])->result = all;
    });
    return data.result;
}

int atomic_add(int* p, int x) { return __atomic_fetch_add(p, x, __ATOMIC_RELAXED); }

std::uint32_t shared_address(const void* p) {
    return static_cast<std::uint32_t>(static_cast<const std::byte*>(p) - block().dynamic_shared());
}
std::byte* shared_array(const void* key, std::size_t bytes) { return block().shared_array(key, bytes); }
std::byte* dynamic_shared() { return block().dynamic_shared(); }

void read_shared(const void* p, const char* operation, const std::source_location& here) {
    block().check_shared(p, operation, here);
    reads(p, 16);
}

void copy_async(void* shared, const void* from, bool valid, const std::source_location& here) {
    block().check_shared(shared, "copy_async", here);
    if (valid) block().check_aligned(from, "copy_async", here);
    Thread& me = block().thread();
    const Copy copy{shared, valid ? from : nullptr, me.group};
    writes(shared, 16);
    if (options().late_copies)
        me.copies.push_back(copy);
    else
        complete(copy);
}

void copy_commit() { ++block().thread().group; }

void copy_wait(int pending) {
    Thread& me = block().thread();
    std::erase_if(me.copies, [&](const Copy& copy) {
        const bool due = copy.group < me.group - pending;
        if (due) complete(copy);
        return due;
    });
}

void barrier_init(void* barrier, int arrivals, const std::source_location& here) {
    block().barrier_init(barrier, arrivals, here);
}
void barrier_arrive(void* barrier, int bytes, const std::source_location& here) {
    block().barrier_arrive(barrier, bytes, here);
}
void barrier_wait(void* barrier, int parity, const std::source_location& here) {
    block().barrier_wait(barrier, parity, here);
}
void sync_some(int barrier, int threads, const std::source_location& here) {
    block().sync_some(barrier, threads, here);
}
void copy_box(void* shared, const Map& map, void* barrier, const int (&at)[3], const std::source_location& here) {
    block().copy_box(shared, map, barrier, at, here);
}
void product(const Product& p, const std::source_location& here) { block().product(p, here); }
void product_fence() { block().thread().fenced = true; }
void product_commit() { ++block().thread().product_groups; }
void product_wait(int pending, const std::source_location& here) { block().product_wait(pending, here); }
void set_registers(const std::source_location& here) {
    block().meet_group("set_registers", here, nullptr, [](Group& /*group*/) {});
}

}  // namespace uipe::emulator
