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
    std::uint64_t seed = 1;      // of Order::random
    bool late_copies = false;    // asynchronous copies happen when waited for, not when issued
    std::uint8_t poison = 0xFF;  // the bytes of fresh memory. 0xFF: NaN; 0x7F: 3.4e38, which no maximum swallows
};
/// What the next launch goes by. UIPE_EMULATOR sets the first value: "order=random:7 copies=late poison=7f".
Options& options();

struct Statistics {
    std::uint64_t launches = 0, blocks = 0, matrix_loads = 0, matrix_products = 0;
    std::uint64_t bank_conflicts = 0;  // extra turns that the rows of load_matrix needed
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
std::byte* shared_array(const void* key, std::size_t bytes);
std::byte* dynamic_shared();
void copy_async(void* shared, const void* from, bool valid, const std::source_location& here);
void copy_commit();
void copy_wait(int pending);
void load_matrix(std::uint32_t (&r)[4], const void* row, bool transposed, const std::source_location& here);
void mma(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1,
         const std::source_location& here);

}  // namespace uipe::emulator
