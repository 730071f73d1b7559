// A block's threads and the order they run in, what they wait for together, and its shared memory.
#include "tensor/cuda/device/block.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>

#include "tensor/base/error.h"
#include "tensor/cuda/device/sanitizers.h"

namespace uipe::emulator {
namespace {

/// Not by memset: the race detector would take that for a write of the thread that runs.
void poison(std::byte* p, std::size_t bytes) {
    for (std::size_t i = 0; i < bytes; ++i) {
        p[i] = static_cast<std::byte>(options().poison);
        asm volatile("" ::: "memory");
    }
}

}  // namespace

std::string at(const std::source_location& place) {
    const std::string file = place.file_name();
    return cat(file.substr(file.find_last_of('/') + 1), ":", place.line());
}

bool same(const std::source_location& a, const std::source_location& b) {
    return a.line() == b.line() && a.column() == b.column() && std::strcmp(a.file_name(), b.file_name()) == 0;
}

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

void Block::fail(const char* operation, const std::source_location& here, const char* what) {
    error_ = cat("thread ", state.thread, ": ", operation, " (", at(here), ") ", what);
    abandon();
}

}  // namespace uipe::emulator
