// Runs kernels on the host: each thread of a block is a fiber, blocks run one after another. It stands where a GPU
// would to find what is wrong with a kernel, so it is strict: what it refuses is undefined, or would surprise, on a
// GPU.
//
// | a kernel that …                                             | is stopped with …                                 |
// |---|---|
// | leaves out some threads at a sync()                          | who waits where                                   |
// | has threads at two different sync()                          | both places                                       |
// | leaves out some lanes at an operation of the warp            | who waits where                                   |
// | has lanes at two different operations                        | both places                                       |
// | gives load_matrix or copy_async an address outside shared    | the place and the offset                          |
// |   memory, or one not aligned to 16                           |                                                   |
// | reads shared memory that was not written                     | NaN in its results: see Options::poison            |
// | waits for too few copies                                     | wrong results with Options::late_copies           |
// | has too few arrivals at a barrier, or tells it of more bytes | who waits where                                   |
// |   than are copied                                            |                                                   |
// | tells a barrier of fewer bytes than are copied               | the barrier's count at the end of the block       |
// | uses a barrier that is not initialised                       | the place                                         |
// | multiplies by a warpgroup without a fence since the last     | the place                                         |
// |   wait, or never waits                                       |                                                   |
// | reads a product's result, or writes its operands, before it  | wrong results without Options::late_copies        |
// |   has waited                                                 |                                                   |
// | writes a buffer again that others still read                 | wrong results without                             |
// | depends on which thread is first                             | other results with another Options::order          |
// | reads or writes outside an array, shared or global           | AddressSanitizer's report, when built with it     |
// | has a race                                                   | ThreadSanitizer's report, when built with it      |
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>

namespace uipe::emulator {

/// In what order threads run where the program leaves it open.
enum class Order : std::uint8_t { forward, reverse, random };

struct Options {
    Order order = Order::forward;
    std::uint64_t seed = 1;  // of Order::random
    // Asynchronous copies happen when waited for, not when issued; products of warpgroups the other way about, so that
    // one setting has what is copied overtake what reads it, and the other what reads overtake what is copied.
    bool late_copies = false;
    std::uint8_t poison = 0xFF;  // the bytes of fresh memory. 0xFF: NaN; 0x7F: 3.4e38, which no maximum swallows
};
/// What the next launch goes by. UIPE_EMULATOR sets the first value: "order=random:7 copies=late poison=7f".
Options& options();

struct Statistics {
    std::uint64_t launches = 0, blocks = 0, matrix_loads = 0, matrix_products = 0;
    std::uint64_t group_product_blocks = 0;  // 16 x 8 x 16, of warpgroups
    std::uint64_t boxes = 0;                 // copied
    std::uint64_t bank_conflicts = 0;        // extra turns that the rows of load_matrix needed
};
Statistics& statistics();

/// One launch; the members are those of tensor::cuda::Launch.
struct Run {
    int blocks[3];
    int threads;
    std::size_t shared;
    std::source_location where;
    void (*body)(const void*);
    const void* argument;
};
/// Runs every block. Error names the place of a fault in the kernel. One launch at a time.
void run(const Run& launch);

// --- What device_host.h is made of: called by kernels, in a fiber --------------------------------------------------

struct State {
    int thread = 0;
    int threads = 0;
    int block[3] = {};
    int blocks[3] = {};
};
extern State state;  // of the thread that runs

void sync(const std::source_location& here);
void sync_warp(const std::source_location& here);
/// Waits until all lanes of the warp are here; the last one calls finish with every lane's `data`.
void meet(const char* operation, const std::source_location& here, void* data, void (*finish)(void* const* lanes));
/// Ends the block unless 16 bytes at p, aligned to 16, are shared memory; the race detector is told that they are read.
void read_shared(const void* p, const char* operation, const std::source_location& here);
std::uint32_t ballot(bool yes, const std::source_location& here);
int atomic_add(int* p, int x);
std::uint32_t shared_address(const void* p);
std::byte* shared_array(const void* key, std::size_t bytes);
std::byte* dynamic_shared();
void copy_async(void* shared, const void* from, bool valid, const std::source_location& here);
void copy_commit();
void copy_wait(int pending);
void load_matrix(std::uint32_t (&r)[4], const void* row, bool transposed, const std::source_location& here);
void mma(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1,
         const std::source_location& here);

// --- What hopper_host.h is made of ---------------------------------------------------------------------------------

void barrier_init(void* barrier, int arrivals, const std::source_location& here);
/// Tells the barrier of `bytes` to come, then arrives.
void barrier_arrive(void* barrier, int bytes, const std::source_location& here);
void barrier_wait(void* barrier, int parity, const std::source_location& here);
void sync_some(int barrier, int threads, const std::source_location& here);

/// A tensor of 2-byte elements in global memory, and the box of it that one copy moves.
struct Map {
    std::uintptr_t base;
    std::int64_t sizes[3];    // elements; the first dimension is contiguous
    std::int64_t strides[2];  // bytes, of the second and the third
    int box[3];
    int span;  // bytes of the swizzle, 16: none
};
void copy_box(void* shared, const Map& map, void* barrier, const int (&at)[3], const std::source_location& here);

/// A lane's part of d[64,N] += a[64,16] b[16,N].
struct Product {
    float* d;                // [N/8][4]
    const std::uint32_t* a;  // [4], or nullptr: by a_matrix
    std::uint64_t a_matrix, b_matrix;
    int N;
    bool across;  // b lies with N contiguous
    bool add;     // else d is overwritten
};
void product(const Product& p, const std::source_location& here);
void product_fence();
void product_commit();
void product_wait(int pending, const std::source_location& here);
/// All lanes of the warpgroup are at setmaxnreg.
void set_registers(const std::source_location& here);

/// A product of all lanes of a warpgroup.
struct Issued {
    Product common;
    float* d[128];
    const std::uint32_t* a[128];
    int group;
    bool done;
};
void multiply(const Issued& p, const std::byte* shared);
/// The byte of shared memory at which element (i, k) of a matrix lies: i counts its rows (of b: columns), k < 16.
std::uint32_t place(std::uint64_t matrix, bool across, int i, int k);
/// The byte that a swizzle of `span` bytes puts in place of one.
constexpr std::uint32_t swizzled(std::uint32_t byte, int span) {
    return byte ^ (byte >> 3 & static_cast<std::uint32_t>(span - 16));
}

}  // namespace uipe::emulator
