// What the emulator tells sanitizers of a kernel's threads: who comes after whom, what is read and written on a
// kernel's behalf, and which memory nobody may touch. In a build without, by_engine() calls its body, and the others do
// nothing.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif
#if defined(UIPE_RACES)
#include <sanitizer/tsan_interface.h>
// Tells the detector of accesses that the emulator makes for a kernel.
extern "C" void __tsan_read_range(void* p, unsigned long size);
extern "C" void __tsan_write_range(void* p, unsigned long size);
extern "C" void AnnotateIgnoreWritesBegin(const char* file, int line);
extern "C" void AnnotateIgnoreWritesEnd(const char* file, int line);
#endif

namespace uipe::emulator {

inline void happens_after([[maybe_unused]] void* tag) {
#if defined(UIPE_RACES)
    __tsan_acquire(tag);
#endif
}
inline void happens_before([[maybe_unused]] void* tag) {
#if defined(UIPE_RACES)
    __tsan_release(tag);
#endif
}
inline void reads([[maybe_unused]] const void* p, [[maybe_unused]] std::size_t bytes) {
#if defined(UIPE_RACES)
    __tsan_read_range(const_cast<void*>(p), bytes);
#endif
}
inline void writes([[maybe_unused]] void* p, [[maybe_unused]] std::size_t bytes) {
#if defined(UIPE_RACES)
    __tsan_write_range(p, bytes);
#endif
}
/// While it lives, what the emulator keeps for itself is none of the detector's business, which sees the memset and
/// memmove that a compiler may make of that.
class OwnMemory {
public:
#if defined(UIPE_RACES)
    OwnMemory() { AnnotateIgnoreWritesBegin(__FILE__, __LINE__); }
    ~OwnMemory() { AnnotateIgnoreWritesEnd(__FILE__, __LINE__); }
#else
    OwnMemory() {}
#endif
    OwnMemory(const OwnMemory&) = delete;
    OwnMemory& operator=(const OwnMemory&) = delete;
};

/// body() as if by another thread, the copy engine, after what this one has done: nothing else orders what it does.
template <class Body>
void by_engine(const Body& body) {
#if defined(UIPE_RACES)
    static void* const engine = __tsan_create_fiber(0);
    static char tag = 0;
    void* const me = __tsan_get_current_fiber();
    happens_before(&tag);
    __tsan_switch_to_fiber(engine, 1);
    happens_after(&tag);
    body();
    __tsan_switch_to_fiber(me, 1);
#else
    body();
#endif
}
inline void forbid([[maybe_unused]] void* p, [[maybe_unused]] std::size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
    __asan_poison_memory_region(p, bytes);
#endif
}
inline void allow([[maybe_unused]] void* p, [[maybe_unused]] std::size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(p, bytes);
#endif
}

}  // namespace uipe::emulator
