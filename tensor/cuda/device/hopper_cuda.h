// The GPU's half of hopper.h: the inline assembly of sm_90.
#pragma once

#include <cuda.h>

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define UIPE_HOPPER_CODE 1
#else
#define UIPE_HOPPER_CODE 0
#endif

/// Before a parameter of a kernel that the copy engine reads.
#define DEV_GRID_CONSTANT __grid_constant__

/// std::byte* name: the shared memory asked for at launch, aligned to 1024. Not beside DEV_SHARED.
#define DEV_DYNAMIC_SHARED_1024(name)                                      \
    extern __shared__ __align__(1024) unsigned char dynamic_shared_1024[]; \
    std::byte* const name = reinterpret_cast<std::byte*>(dynamic_shared_1024)

namespace uipe::dev {

/// Whether this code is for sm_90.
constexpr bool hopper = UIPE_HOPPER_CODE != 0;

/// In shared memory (PTX ISA, mbarrier).
struct alignas(8) Barrier {
    std::uint64_t bits;
};

/// Made by tensor_map(), a kernel's parameter.
struct TensorMap {
    CUtensorMap map;
};

/// Each phase of the barrier takes so many arrivals. By one thread; then barriers_ready(), and a sync() of all.
__device__ inline void barrier_init(Barrier* b, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(arrivals) : "memory");
}
/// Lets the copy engine see them.
__device__ inline void barriers_ready() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
/// What this thread has written or read is done for those who wait for the phase.
__device__ inline void barrier_arrive(Barrier* b) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}
/// The same, after the phase was told to wait for so many bytes more.
__device__ inline void barrier_arrive_expect(Barrier* b, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes)
                 : "memory");
}
/// Waits for the end of the phase of that parity: phases are 0, 1, 0, 1, … On a fresh barrier parity 1 has ended.
__device__ inline void barrier_wait(Barrier* b, int parity) {
    std::uint32_t done = 0;
    while (done == 0)
        asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                     : "=r"(done)
                     : "r"(shared_address(b)), "r"(parity)
                     : "memory");
}

/// What this thread wrote to shared memory is seen by products and copies of those that it meets afterwards.
__device__ inline void async_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

/// sync() of `threads` threads, of whole warps; `barrier` is 1 to 15, another for each set of them.
__device__ inline void sync_some(int barrier, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

/// Registers of each thread of the warpgroup from here on: fewer, or more, once others have given theirs back.
template <int count>
__device__ inline void fewer_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count));
}
template <int count>
__device__ inline void more_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count));
}

/// Starts to copy a box of a tensor to shared memory, from the element x of row y of plane z on; zeros for what lies
/// outside the tensor. Its rows lie one after another, swizzled, from an address that is a multiple of 128, or of eight
/// rows; all its bytes are counted by the barrier.
__device__ inline void copy_box(void* shared, const TensorMap& map, Barrier* b, int x, int y, int z) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::
            "r"(shared_address(shared)),
        "l"(&map), "r"(shared_address(b)), "r"(x), "r"(y), "r"(z)
        : "memory");
}

/// Keeps uses of registers that products write or read on their side of what stands here.
template <int N>
__device__ inline void hold(float (&x)[N][4]) {
    DEV_UNROLL
    for (int j = 0; j < N; ++j) asm volatile("" : "+f"(x[j][0]), "+f"(x[j][1]), "+f"(x[j][2]), "+f"(x[j][3]));
}
template <int N>
__device__ inline void hold(std::uint32_t (&x)[N][4]) {
    DEV_UNROLL
    for (int j = 0; j < N; ++j) asm volatile("" : "+r"(x[j][0]), "+r"(x[j][1]), "+r"(x[j][2]), "+r"(x[j][3]));
}
/// Before products: what was done to their registers, sums and left operands, is done.
template <class... Registers>
__device__ inline void products_begin(Registers&... registers) {
    (hold(registers), ...);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
/// Ends a group of products.
__device__ inline void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/// Waits until at most the last `pending` groups are under way; names the sums that are whole then.
template <int pending, class... Registers>
__device__ inline void products_wait(Registers&... sums) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
    (hold(sums), ...);
}

// d[64, 8 N] += a[64, 16] b[16, 8 N] over the warpgroup (PTX ISA, wgmma.mma_async.m64nNk16), bf16 products summed in
// f32; without `add` what was in d counts for nothing. Warp w has rows 16 w to 16 w + 15: with g = lane / 4 and t =
// lane % 4, d[j][i] is row 16 w + g + 8 (i / 2), column 8 j + 2 t + i % 2. a: a matrix with K contiguous, or registers
// laid out as for mma(), of the warp's 16 rows. b: a matrix with K contiguous, or, `across`, N.
#define UIPE_FOUR(j) "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
#define UIPE_EIGHT(j) UIPE_FOUR(j), UIPE_FOUR(j + 1)
#define UIPE_64(j) UIPE_EIGHT(j), UIPE_EIGHT(j + 2), UIPE_EIGHT(j + 4), UIPE_EIGHT(j + 6)
#define UIPE_NAMES_64                                                        \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define UIPE_NAMES_128                                                                   \
    UIPE_NAMES_64                                                                        \
    ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

template <bool across>
__device__ inline void multiply(float (&d)[8][4], std::uint64_t a, std::uint64_t b, bool add) {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %34, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
        "{" UIPE_NAMES_64 "}, %32, %33, p, 1, 1, 0, %35; }"
        : UIPE_64(0)
        : "l"(a), "l"(b), "r"(add ? 1 : 0), "n"(across ? 1 : 0));
}
template <bool across>
__device__ inline void multiply(float (&d)[8][4], const std::uint32_t (&a)[4], std::uint64_t b, bool add) {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %37, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
        "{" UIPE_NAMES_64 "}, {%32, %33, %34, %35}, %36, p, 1, 1, %38; }"
        : UIPE_64(0)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add ? 1 : 0), "n"(across ? 1 : 0));
}

template <bool across>
__device__ inline void multiply(float (&d)[16][4], std::uint64_t a, std::uint64_t b, bool add) {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %66, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
        "{" UIPE_NAMES_128 "}, %64, %65, p, 1, 1, 0, %67; }"
        : UIPE_64(0), UIPE_64(8)
        : "l"(a), "l"(b), "r"(add ? 1 : 0), "n"(across ? 1 : 0));
}
template <bool across>
__device__ inline void multiply(float (&d)[16][4], const std::uint32_t (&a)[4], std::uint64_t b, bool add) {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %69, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
        "{" UIPE_NAMES_128 "}, {%64, %65, %66, %67}, %68, p, 1, 1, %70; }"
        : UIPE_64(0), UIPE_64(8)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add ? 1 : 0), "n"(across ? 1 : 0));
}

#undef UIPE_FOUR
#undef UIPE_EIGHT
#undef UIPE_64
#undef UIPE_NAMES_64
#undef UIPE_NAMES_128

}  // namespace uipe::dev
