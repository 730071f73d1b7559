// The host's half of hopper.h: every function of hopper_cuda.h, whose comments describe them, on the emulator.
#pragma once

#define DEV_GRID_CONSTANT
#define DEV_DYNAMIC_SHARED_1024(name) std::byte* const name = ::uipe::emulator::dynamic_shared()

namespace uipe::dev {

constexpr bool hopper = true;

struct alignas(8) Barrier {
    std::uint64_t bits;
};

struct TensorMap {
    emulator::Map map;
};

inline void barrier_init(Barrier* b, int arrivals DEV_AND_HERE) { emulator::barrier_init(b, arrivals, here); }
inline void barriers_ready() {}
inline void barrier_arrive(Barrier* b DEV_AND_HERE) { emulator::barrier_arrive(b, 0, here); }
inline void barrier_arrive_expect(Barrier* b, int bytes DEV_AND_HERE) { emulator::barrier_arrive(b, bytes, here); }
inline void barrier_wait(Barrier* b, int parity DEV_AND_HERE) { emulator::barrier_wait(b, parity, here); }
inline void async_fence() {}
inline void sync_some(int barrier, int threads DEV_AND_HERE) { emulator::sync_some(barrier, threads, here); }

template <int count>
void fewer_registers(DEV_HERE) {
    static_assert(24 <= count && count <= 256 && count % 8 == 0);
    emulator::set_registers(here);
}
template <int count>
void more_registers(DEV_HERE) {
    static_assert(24 <= count && count <= 256 && count % 8 == 0);
    emulator::set_registers(here);
}

inline void copy_box(void* shared, const TensorMap& map, Barrier* b, int x, int y, int z DEV_AND_HERE) {
    emulator::copy_box(shared, map.map, b, {x, y, z}, here);
}

template <class... Registers>
void products_begin(Registers&... /*registers*/) {
    emulator::product_fence();
}
inline void products_commit() { emulator::product_commit(); }
template <int pending, int N>
void products_wait(float (&/*sum*/)[N][4] DEV_AND_HERE) {
    emulator::product_wait(pending, here);
}
template <int pending, int N, int M>
void products_wait(float (&/*sum*/)[N][4], float (&/*second*/)[M][4] DEV_AND_HERE) {
    emulator::product_wait(pending, here);
}

template <bool across, int N>
void multiply(float (&d)[N][4], std::uint64_t a, std::uint64_t b, bool add DEV_AND_HERE) {
    emulator::product({d[0], nullptr, a, b, 8 * N, across, add}, here);
}
template <bool across, int N>
void multiply(float (&d)[N][4], const std::uint32_t (&a)[4], std::uint64_t b, bool add DEV_AND_HERE) {
    emulator::product({d[0], a, 0, b, 8 * N, across, add}, here);
}

}  // namespace uipe::dev
