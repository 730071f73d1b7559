// launch(kernel, {.grid = {x, y, z}, .threads = n, .shared = bytes}, arguments…), on the GPU or on the emulator.
// A launch is queued on the backend's stream, in order with all else there.
#pragma once

#include <cstddef>
#include <source_location>
#include <type_traits>

#include "tensor/cuda/runtime.h"
#ifndef __CUDACC__
#include "tensor/cuda/device/emulator.h"
#endif

namespace uipe::tensor::cuda {

/// Shared memory a block may have on every chip that we build for (sm_89 has least: 99 KiB).
constexpr std::size_t most_shared = 99 * 1024;
/// The same of sm_90.
constexpr std::size_t most_shared_hopper = 227 * 1024;

struct Grid {
    std::int64_t x = 1, y = 1, z = 1;
};

struct Launch {
    Grid grid = {};
    int threads = 256;       // a block; a multiple of 32, at most 1024
    std::size_t shared = 0;  // bytes of dynamic shared memory
    bool hopper = false;     // a kernel for sm_90 alone
    std::source_location where = std::source_location::current();
};

/// Throws unless the launch is one that every chip takes, or every sm_90. False when there is nothing to do: an empty
/// grid.
inline bool check_launch(const Launch& how) {
    require(how.threads > 0 && how.threads <= 1024 && how.threads % 32 == 0 &&
                how.shared <= (how.hopper ? most_shared_hopper : most_shared) && how.grid.x < (std::int64_t{1} << 31) &&
                how.grid.y < 65536 && how.grid.z < 65536,
            how.where.file_name(), ":", how.where.line(), ": a launch of ", how.grid.x, "x", how.grid.y, "x",
            how.grid.z, " blocks of ", how.threads, " threads and ", how.shared, " bytes is out of bounds");
    return how.grid.x > 0 && how.grid.y > 0 && how.grid.z > 0;
}

#ifdef __CUDACC__

template <class... P>
void launch(void (*kernel)(P...), const Launch& how, std::type_identity_t<P>... arguments) {
    if (!check_launch(how)) return;
    if (how.shared > 16 * 1024)  // 48 KiB are free, of which the static arrays take some
        check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   static_cast<int>(how.shared)),
              how.where);
    const dim3 grid(static_cast<unsigned>(how.grid.x), static_cast<unsigned>(how.grid.y),
                    static_cast<unsigned>(how.grid.z));
    kernel<<<grid, static_cast<unsigned>(how.threads), how.shared, stream()>>>(arguments...);
    check(cudaGetLastError(), how.where);
}

#else

template <class... P>
void launch(void (*kernel)(P...), const Launch& how, std::type_identity_t<P>... arguments) {
    if (!check_launch(how)) return;
    const auto body = [&] { kernel(arguments...); };
    using Body = decltype(body);
    emulator::run({{static_cast<int>(how.grid.x), static_cast<int>(how.grid.y), static_cast<int>(how.grid.z)},
                   how.threads,
                   how.shared,
                   how.where,
                   [](const void* f) { (*static_cast<const Body*>(f))(); },
                   &body});
}

#endif

}  // namespace uipe::tensor::cuda
