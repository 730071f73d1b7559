#include "tests/cuda/planted.h"

#ifdef UIPE_EMULATED

#include "tensor/cuda/cuda.h"
#include "tensor/cuda/device/tensor_map.h"

namespace uipe::tensor::test {
namespace {

using cuda::launch;

constexpr int threads = 128;

__global__ void sync_left_out(std::uint32_t* out, bool bug) {
    if (bug && dev::thread() >= threads / 2) return;
    dev::sync();
    out[dev::thread()] = 1;
}

__global__ void two_syncs(std::uint32_t* out, bool bug) {
    if (bug && dev::thread() < threads / 2)
        dev::sync();
    else if (bug)
        dev::sync();
    else
        dev::sync();
    out[dev::thread()] = 1;
}

__global__ void lane_left_out(std::uint32_t* out, bool bug) {
    if (bug && dev::lane() == 7) return;
    out[dev::thread()] = dev::shuffle(static_cast<std::uint32_t>(dev::thread()), 3);
}

__global__ void two_operations(std::uint32_t* out, bool bug) {
    if (bug && dev::lane() < 16)
        out[dev::thread()] = dev::ballot(true);
    else
        out[dev::thread()] = dev::shuffle(7U, 3);
}

__global__ void matrix(std::uint32_t* out, int shift) {
    DEV_SHARED(std::uint16_t, tile, 256);
    for (int i = dev::thread(); i < 256; i += threads) tile[i] = static_cast<std::uint16_t>(i);
    dev::sync();
    std::uint32_t r[4];
    dev::load_matrix(r, tile + dev::lane() % 16 * 8 + shift);
    out[dev::thread()] = r[0];
}

__global__ void copy_outside(std::uint32_t* out, const std::uint32_t* x, bool bug) {
    DEV_SHARED(std::uint32_t, tile, 4 * threads);
    dev::copy_async(tile + dev::thread() * 4 + (bug ? 4 : 0), x + dev::thread() * 4);
    dev::copy_commit();
    dev::copy_wait<0>();
    dev::sync();
    out[dev::thread()] = tile[dev::thread()];
}

__global__ void shared_outside(std::uint32_t* out, bool bug) {
    DEV_SHARED(std::uint32_t, a, threads);
    a[dev::thread() + (bug ? 1 : 0)] = 1;
    dev::sync();
    out[dev::thread()] = a[threads - 1 - dev::thread()];
}

__global__ void global_outside(std::uint32_t* out, bool bug) { out[dev::thread() + (bug ? 1 : 0)] = 1; }

__global__ void shared_race(std::uint32_t* out, bool bug) {
    DEV_SHARED(std::uint32_t, a, threads);
    a[dev::thread()] = 1;
    if (!bug) dev::sync();
    out[dev::thread()] = a[threads - 1 - dev::thread()];
}

__global__ void global_race(std::uint32_t* out, bool bug) {
    out[bug ? 0 : dev::thread()] = static_cast<std::uint32_t>(dev::thread());
}

__global__ void unwritten_shared(std::uint32_t* out, bool bug) {
    DEV_SHARED(std::uint32_t, a, threads);
    if (!bug || dev::thread() != 5) a[dev::thread()] = 1;
    dev::sync();
    out[dev::thread()] = a[dev::thread()];
}

__global__ void copy_not_waited_for(std::uint32_t* out, const std::uint32_t* x, bool bug) {
    DEV_SHARED(std::uint32_t, tile, 4 * threads);
    dev::copy_async(tile + dev::thread() * 4, x + dev::thread() * 4);
    dev::copy_commit();
    if (bug)
        dev::copy_wait<1>();
    else
        dev::copy_wait<0>();
    dev::sync();
    out[dev::thread()] = tile[dev::thread()];
}

/// Sums two tiles through one buffer; the second copy must not start before all have read the first.
__global__ void buffer_refilled_early(std::uint32_t* out, const std::uint32_t* x, bool bug) {
    DEV_SHARED(std::uint32_t, tile, 4 * threads);
    std::uint32_t sum = 0;
    for (int round = 0; round < 2; ++round) {
        dev::copy_async(tile + dev::thread() * 4, x + (round * threads + dev::thread()) * 4);
        dev::copy_commit();
        dev::copy_wait<0>();
        dev::sync();
        sum += tile[(dev::thread() * 4 + 4) % (4 * threads)];
        if (!bug) dev::sync();
    }
    out[dev::thread()] = sum;
}

__global__ void order_of_warps(std::uint32_t* out, bool bug) {
    DEV_SHARED(int, next, 1);
    if (dev::thread() == 0) next[0] = 0;
    dev::sync();
    const int turn = bug ? dev::atomic_add(next, 1) : dev::thread();
    out[turn] = static_cast<std::uint32_t>(dev::thread());
}

constexpr int box_bytes = 64 * 16 * 2;

/// Two boxes of 64 x 16, counted by one barrier that all threads wait for.
__global__ void boxes(std::uint32_t* out, const DEV_GRID_CONSTANT dev::TensorMap map, Planted kind, bool bug) {
    DEV_DYNAMIC_SHARED_1024(tiles);
    DEV_SHARED(dev::Barrier, barrier, 2);
    const auto is = [&](Planted which) { return bug && kind == which; };
    if (dev::thread() == 0) {
        dev::barrier_init(barrier, kind == Planted::arrivals_too_few ? threads : 1);
        dev::barriers_ready();
    }
    dev::sync();
    if (kind == Planted::arrivals_too_few && dev::thread() > (bug ? 1 : 0)) dev::barrier_arrive(barrier);
    if (dev::thread() == 0) {
        const int count = is(Planted::bytes_too_few) ? 1 : is(Planted::bytes_too_many) ? 3 : 2;
        dev::barrier_arrive_expect(barrier, count * box_bytes);
        dev::copy_box(tiles, map, barrier, 0, 0, 0);
        dev::copy_box(tiles + (is(Planted::box_outside) ? box_bytes + 1024 : box_bytes), map, barrier, 0, 16, 0);
    }
    if (!is(Planted::barrier_not_waited_for)) dev::barrier_wait(barrier + (is(Planted::barrier_not_made) ? 1 : 0), 0);
    dev::sync();
    out[dev::thread()] = reinterpret_cast<const std::uint32_t*>(tiles + box_bytes)[dev::thread()];
    if (is(Planted::barrier_not_waited_for)) dev::barrier_wait(barrier, 0);
}

/// As buffer_refilled_early.
__global__ void box_refilled_early(std::uint32_t* out, const DEV_GRID_CONSTANT dev::TensorMap map, bool bug) {
    DEV_DYNAMIC_SHARED_1024(tile);
    DEV_SHARED(dev::Barrier, barrier, 2);
    if (dev::thread() == 0) {
        dev::barrier_init(barrier, 1);
        dev::barrier_init(barrier + 1, threads);
        dev::barriers_ready();
    }
    dev::sync();
    std::uint32_t sum = 0;
    for (int round = 0; round < 2; ++round) {
        if (dev::thread() == 0) {
            if (!bug) dev::barrier_wait(barrier + 1, 1 - round);
            dev::barrier_arrive_expect(barrier, box_bytes);
            dev::copy_box(tile, map, barrier, 0, 16 * round, 0);
        }
        dev::barrier_wait(barrier, round);
        dev::sync();
        sum += reinterpret_cast<const std::uint32_t*>(tile)[dev::thread()];
        dev::barrier_arrive(barrier + 1);
    }
    out[dev::thread()] = sum;
}

/// A product of ones.
__global__ void product(std::uint32_t* out, Planted kind, bool bug) {
    DEV_DYNAMIC_SHARED_1024(shared);
    auto* const right = reinterpret_cast<std::uint16_t*>(shared);
    for (int i = dev::thread(); i < 16 * 64; i += threads) right[i] = 0x3F80;
    dev::async_fence();
    dev::sync();
    float sum[8][4];
    for (auto& part : sum)
        for (float& x : part) x = 0.0F;
    const std::uint32_t ones[4] = {0x3F803F80, 0x3F803F80, 0x3F803F80, 0x3F803F80};
    if (!bug || kind != Planted::product_not_begun) dev::products_begin(sum);
    dev::multiply<true>(sum, ones, dev::matrix_at(right, 16, 1024, dev::Swizzle::bytes128), true);
    dev::products_commit();
    const auto overwrite = [&] { right[dev::thread()] = 0; };
    if (bug && kind == Planted::product_not_waited_for) out[dev::thread()] = std::bit_cast<std::uint32_t>(sum[3][1]);
    if (bug && kind == Planted::operand_overwritten) overwrite();
    dev::products_wait<0>(sum);
    dev::sync();
    if (!bug) overwrite();
    if (!bug || kind != Planted::product_not_waited_for)
        out[dev::thread()] = std::bit_cast<std::uint32_t>(sum[dev::lane() % 8][dev::warp()]);
}

template <bool swizzled>
__global__ void read_tile() {
    DEV_SHARED(std::uint16_t, tile, 16 * 64);
    for (int i = dev::thread(); i < 16 * 64; i += dev::threads()) tile[i] = 0;
    dev::sync();
    std::uint32_t r[4];
    for (int chunk = 0; chunk < 8; chunk += 2) {
        const int row = dev::lane() % 16;
        const int column = chunk + dev::lane() / 16;
        dev::load_matrix(r, tile + (swizzled ? dev::swizzle(row, column, 8) : (row * 8 + column) * 8));
    }
}

}  // namespace

std::vector<std::uint32_t> run_planted(Planted bug, bool planted) {
    std::vector<std::uint32_t> numbers(8 * threads);
    for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<std::uint32_t>(i);
    const auto device = [](std::size_t n) {
        return std::shared_ptr<std::uint32_t>(static_cast<std::uint32_t*>(cuda::take_memory(n * 4)), cuda::give_memory);
    };
    const auto x = device(numbers.size());
    const auto out = device(threads);
    cuda::upload(x.get(), numbers.data(), numbers.size() * 4);
    const auto map = [](const std::uint32_t* numbers_there) {  // 64 numbers of two bytes a row
        return cuda::tensor_map({.base = numbers_there,
                                 .sizes = {64, 32, 1},
                                 .strides = {128, 128},
                                 .box = {64, 16, 1},
                                 .swizzle = dev::Swizzle::bytes128});
    };
    const auto run = [&](auto kernel, auto... arguments) {
        launch(kernel, {.threads = threads}, out.get(), arguments...);
    };
    switch (bug) {
        case Planted::sync_left_out:
            run(sync_left_out, planted);
            break;
        case Planted::two_syncs:
            run(two_syncs, planted);
            break;
        case Planted::lane_left_out:
            run(lane_left_out, planted);
            break;
        case Planted::two_operations:
            run(two_operations, planted);
            break;
        case Planted::matrix_outside:
            run(matrix, planted ? 256 : 0);
            break;
        case Planted::matrix_unaligned:
            run(matrix, planted ? 1 : 0);
            break;
        case Planted::copy_outside:
            run(copy_outside, x.get(), planted);
            break;
        case Planted::shared_outside:
            run(shared_outside, planted);
            break;
        case Planted::global_outside:
            run(global_outside, planted);
            break;
        case Planted::shared_race:
            run(shared_race, planted);
            break;
        case Planted::global_race:
            run(global_race, planted);
            break;
        case Planted::unwritten_shared:
            run(unwritten_shared, planted);
            break;
        case Planted::copy_not_waited_for:
            run(copy_not_waited_for, x.get(), planted);
            break;
        case Planted::buffer_refilled_early:
            run(buffer_refilled_early, x.get(), planted);
            break;
        case Planted::order_of_warps:
            run(order_of_warps, planted);
            break;
        case Planted::barrier_not_waited_for:
        case Planted::bytes_too_few:
        case Planted::bytes_too_many:
        case Planted::arrivals_too_few:
        case Planted::barrier_not_made:
        case Planted::box_outside:
            launch(boxes, {.threads = threads, .shared = 2 * box_bytes}, out.get(), map(x.get()), bug, planted);
            break;
        case Planted::box_refilled_early:
            launch(box_refilled_early, {.threads = threads, .shared = box_bytes}, out.get(), map(x.get()), planted);
            break;
        case Planted::product_not_begun:
        case Planted::product_not_waited_for:
        case Planted::operand_overwritten:
            launch(product, {.threads = threads, .shared = box_bytes}, out.get(), bug, planted);
            break;
    }
    std::vector<std::uint32_t> result(threads);
    cuda::download(result.data(), out.get(), threads * 4);
    return result;
}

std::uint64_t conflicts(bool swizzled) {
    const std::uint64_t before = emulator::statistics().bank_conflicts;
    launch(swizzled ? read_tile<true> : read_tile<false>, {.threads = 32});
    return emulator::statistics().bank_conflicts - before;
}

}  // namespace uipe::tensor::test

#endif
