#include "tensor/cuda/device/emulator.h"

#include <sys/mman.h>

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
#endif

namespace uipe::emulator {

State state;

namespace {

constexpr int most_threads = 1024;
constexpr int most_warps = most_threads / 32;
constexpr std::size_t shared_size = std::size_t{1} << 18;
constexpr std::size_t most_shared = 99 * 1024;  // of a block, on every chip that we build for
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
    int group = 0;  // groups committed
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
    void check_shared(const void* p, const char* operation, const std::source_location& here);
    void check_aligned(const void* from, const char* operation, const std::source_location& here);
    Thread& thread() { return *threads_[static_cast<std::size_t>(state.thread)]; }

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
        thread.fiber.start(entry);
    }
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
    if (finished_ == launch_->threads) me.fiber.switch_to(main_);
    run_next();
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
    const int next = pick();
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
    if (launch_->shared + arrays_bytes_ > most_shared || begin + bytes + red_zone > shared_size) {
        error_ = cat("its shared arrays take ", arrays_bytes_, " bytes beside the ", launch_->shared,
                     " asked for at launch: more than ", most_shared, " in all");
        abandon();
    }
    allow(shared_ + begin, bytes);
    poison(shared_ + begin, bytes);
    used_ = (begin + bytes + red_zone + 127) / 128 * 128;
    arrays_.push_back({key, begin});
    return shared_ + begin;
}

void Block::check_shared(const void* p, const char* operation, const std::source_location& here) {
    const auto address = reinterpret_cast<std::uintptr_t>(p);
    const auto begin = reinterpret_cast<std::uintptr_t>(shared_);
    const bool dynamic = begin <= address && address + 16 <= begin + launch_->shared;
    bool inside = dynamic;
    for (const Array& array : arrays_)
        inside = inside || (begin + array.begin <= address && address + 16 <= begin + used_ - red_zone);
    if (!inside || address % 16 != 0) {
        error_ = cat("thread ", state.thread, ": ", operation, " (", at(here), ") at byte ",
                     static_cast<std::int64_t>(address - begin), " of shared memory, ",
                     inside ? "not aligned to 16" : "outside it");
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

}  // namespace uipe::emulator
