#include "tensor/cpu/amx.h"

#if defined(__AMX_BF16__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace uipe::tensor::cpu {

#if defined(__AMX_BF16__) && defined(__linux__)

bool has_amx() {
    // Linux gives a process the registers, 8 KB a thread, when it asks: arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA).
    static const bool granted = ::syscall(SYS_arch_prctl, 0x1023, 18) == 0;
    return granted;
}

AmxRegisters::AmxRegisters() {
    if (!has_amx()) return;
    struct alignas(64) {
        std::uint8_t palette = 1, start_row = 0, unused[14] = {};
        std::uint16_t row_bytes[16] = {};
        std::uint8_t rows[16] = {};
    } config;
    for (int i = 0; i < 8; ++i) config.row_bytes[i] = 64, config.rows[i] = 16;
    amx_stores_end();
    _tile_loadconfig(&config);
}
AmxRegisters::~AmxRegisters() {
    if (has_amx()) _tile_release();
}

#else

bool has_amx() { return false; }
AmxRegisters::AmxRegisters() = default;
AmxRegisters::~AmxRegisters() = default;

#endif

}  // namespace uipe::tensor::cpu
