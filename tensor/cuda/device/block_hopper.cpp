// What blocks do on sm_90 alone: barriers that count bytes, copies of boxes, barriers of some warps, products of
// warpgroups.
#include <algorithm>

#include "tensor/base/error.h"
#include "tensor/cuda/device/block.h"
#include "tensor/cuda/device/sanitizers.h"

namespace uipe::emulator {

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

namespace {

/// Calls body(byte) for each 16 bytes of shared memory that a product reads.
template <class Body>
void for_each_chunk(const Product& p, const Body& body) {
    for (int i = 0; i < 64 && p.a == nullptr; ++i)
        for (int k = 0; k < 16; k += 8) body(place(p.a_matrix, false, i, k));
    for (int j = 0; j < p.N; j += p.across ? 8 : 1)
        for (int k = 0; k < 16; k += p.across ? 1 : 8) body(place(p.b_matrix, p.across, j, k));
}

}  // namespace

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
