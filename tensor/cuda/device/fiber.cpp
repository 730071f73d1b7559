#include "tensor/cuda/device/fiber.h"

#include <sys/mman.h>

#include <cstdint>

#include "tensor/base/error.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(UIPE_RACES)
#include <sanitizer/tsan_interface.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace uipe::emulator {
namespace {

constexpr std::size_t page = 4096;
constexpr std::size_t stack_size = 64 * 1024;

Fiber* came_from = nullptr;  // who made the last switch

/// A fiber that was left for good leaves marks of its frames behind.
void forget_frames([[maybe_unused]] void* stack) {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(static_cast<std::byte*>(stack) + page, stack_size);
#endif
}

}  // namespace

#if defined(__x86_64__)

// Saves what a call must preserve on the old stack, and restores it from the new one. (The control words of the
// floating point units are the same everywhere.)
extern "C" void uipe_switch_stack(void** save, void* load);
asm(R"(
.text
.globl uipe_switch_stack
.type uipe_switch_stack, @function
uipe_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size uipe_switch_stack, .-uipe_switch_stack
)");

void Fiber::start(void (*entry)()) {
    forget_frames(stack_);
    // Stacks that begin at the same offset of a page would fight for the same lines of the first cache.
    auto* top = reinterpret_cast<std::uintptr_t*>(static_cast<std::byte*>(stack_) + page + stack_size -
                                                  static_cast<std::size_t>(colour_ % 32) * 128);
    *--top = 0;  // where entry() would return to; it also aligns the stack as a call does
    *--top = reinterpret_cast<std::uintptr_t>(entry);
    for (int i = 0; i < 6; ++i) *--top = 0;
    top_ = top;
}

#else

void Fiber::start(void (*entry)()) {
    forget_frames(stack_);
    if (top_ == nullptr) top_ = new ucontext_t;
    auto* context = static_cast<ucontext_t*>(top_);
    require(::getcontext(context) == 0, "getcontext failed");
    context->uc_stack.ss_sp = static_cast<std::byte*>(stack_) + page;
    context->uc_stack.ss_size = stack_size;
    context->uc_link = nullptr;
    ::makecontext(context, entry, 0);
}

#endif

Fiber::Fiber() {
    static int made = 0;
    colour_ = made++;
    stack_ =
        ::mmap(nullptr, page + stack_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    require(stack_ != MAP_FAILED && ::mprotect(stack_, page, PROT_NONE) == 0, "no memory for the stack of a fiber");
    asan_bottom_ = static_cast<std::byte*>(stack_) + page;
    asan_size_ = stack_size;
#if defined(UIPE_RACES)
    tsan_ = __tsan_create_fiber(0);
#endif
}

Fiber::Fiber(Current) {
#if !defined(__x86_64__)
    top_ = new ucontext_t;
#endif
#if defined(UIPE_RACES)
    tsan_ = __tsan_get_current_fiber();
#endif
}

Fiber::~Fiber() {
#if defined(UIPE_RACES)
    if (stack_ != nullptr) __tsan_destroy_fiber(tsan_);
#endif
#if !defined(__x86_64__)
    delete static_cast<ucontext_t*>(top_);
#endif
    if (stack_ != nullptr) ::munmap(stack_, page + stack_size);
}

void Fiber::switch_to(Fiber& to) {
    came_from = this;
#if defined(__SANITIZE_ADDRESS__)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, to.asan_bottom_, to.asan_size_);
#endif
#if defined(UIPE_RACES)
    __tsan_switch_to_fiber(to.tsan_, 1);  // 1: a switch orders nothing
#endif
#if defined(__x86_64__)
    uipe_switch_stack(&top_, to.top_);
#else
    ::swapcontext(static_cast<ucontext_t*>(top_), static_cast<ucontext_t*>(to.top_));
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, &came_from->asan_bottom_, &came_from->asan_size_);
#endif
}

void Fiber::entered() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &came_from->asan_bottom_, &came_from->asan_size_);
#endif
}

}  // namespace uipe::emulator
