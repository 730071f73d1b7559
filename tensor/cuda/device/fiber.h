// Fibers: stacks that one thread of the system switches among. The sanitizers are told of every switch.
#pragma once

#include <cstddef>

namespace uipe::emulator {

class Fiber {
public:
    /// With a stack of its own, below it a page that faults when touched.
    Fiber();
    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;
    ~Fiber();

    /// The next switch to this fiber calls entry(), which must not return. What ran on the stack before is forgotten.
    void start(void (*entry)());

    /// A fiber for the stack that the caller is on.
    struct Current {};
    explicit Fiber(Current);

    /// Leaves this fiber, which is running, for `to`; returns when something switches back.
    void switch_to(Fiber& to);
    /// The first thing a started fiber calls.
    static void entered();

private:
    void* stack_ = nullptr;  // lowest address, the guard page included
    void* top_ = nullptr;    // saved stack pointer, or the context where there is no switch in assembly
    const void* asan_bottom_ = nullptr;
    std::size_t asan_size_ = 0;
    void* tsan_ = nullptr;
    int colour_ = 0;
};

}  // namespace uipe::emulator
