// Kernels with a planted bug each, and their clean twins, for detectors_test.cpp. They run on the emulator alone.
#pragma once

#include <cstdint>
#include <vector>

namespace uipe::tensor::test {

enum class Planted {
    sync_left_out,           // half of the block leaves before a sync
    two_syncs,               // the halves of the block are at different syncs
    lane_left_out,           // a lane leaves before a shuffle
    two_operations,          // lanes at a shuffle and at a ballot
    matrix_outside,          // load_matrix beyond the shared array
    matrix_unaligned,        // load_matrix at an address that is not a multiple of 16
    copy_outside,            // copy_async beyond the shared array
    shared_outside,          // a plain write beyond a shared array
    global_outside,          // a plain write beyond global memory
    shared_race,             // neighbours' elements read without a sync
    global_race,             // all threads write one element
    unwritten_shared,        // shared memory read before it is written
    copy_not_waited_for,     // one group of copies fewer waited for than needed
    buffer_refilled_early,   // a copy into a buffer that others still read
    order_of_warps,          // the result depends on which warp is first
    barrier_not_waited_for,  // a box read before the barrier's phase has ended
    bytes_too_few,           // the barrier is told of one of two boxes
    bytes_too_many,          // of three
    arrivals_too_few,        // one thread does not arrive
    barrier_not_made,        // a barrier that is not initialised
    box_outside,             // a box that does not end within shared memory
    box_refilled_early,      // a box into a buffer that others still read
    product_not_begun,       // a product without products_begin()
    product_not_waited_for,  // its sums read before the wait
    operand_overwritten,     // its matrix written before the wait
};

/// Runs the kernel with the bug, or its clean twin; what it wrote.
std::vector<std::uint32_t> run_planted(Planted bug, bool planted);
/// Bank conflicts of a tile of 16 rows of 64 elements read by load_matrix, with and without swizzle.
std::uint64_t conflicts(bool swizzled);

}  // namespace uipe::tensor::test
