#include "tensor/cpu/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>

namespace uipe::tensor::cpu {
namespace {

constexpr std::size_t page = std::size_t{1} << 21;  // a huge page: the range grows and shrinks by whole ones

constexpr std::size_t round_up(std::size_t n, std::size_t step) { return (n + step - 1) / step * step; }

struct Range {
    std::byte* base = nullptr;
    std::size_t size = 0;
};

/// Addresses that hold no memory yet, from a multiple of a page on. A limit on them (ulimit -v) leaves fewer: then half
/// of what can be had, for mapped files and the stacks of threads want some too.
Range reserve() {
    for (std::size_t size = std::size_t{1} << 44; size >= 2 * page; size /= 2) {
        void* range = ::mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (range == MAP_FAILED) continue;
        const bool limited = size < std::size_t{1} << 44;
        if (limited) ::munmap(static_cast<std::byte*>(range) + size / 2, size / 2);
        const auto address = reinterpret_cast<std::uintptr_t>(range);
        const std::size_t skip = round_up(address, page) - address;
        return {static_cast<std::byte*>(range) + skip, (limited ? size / 2 : size) - page};
    }
    return {};
}

}  // namespace

void* Arena::take(std::size_t bytes) {
    auto found = free_.lower_bound({bytes, 0});
    if (found == free_.end()) {
        if (!grow(bytes)) return nullptr;
        found = free_.lower_bound({bytes, 0});
    }
    found = std::min_element(found, free_.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
    const auto block = blocks_.find(found->second);
    free_.erase(found);
    const std::size_t rest = block->second.size - bytes;
    block->second = {bytes, false};
    if (rest > 0) set_free(blocks_.emplace(block->first + bytes, Block{rest, true}).first);
    return base_ + block->first;
}

void Arena::give(void* address) {
    auto block = blocks_.find(static_cast<std::size_t>(static_cast<std::byte*>(address) - base_));
    if (const auto next = std::next(block); next != blocks_.end() && next->second.free) {
        forget(next);
        block->second.size += next->second.size;
        blocks_.erase(next);
    }
    if (block != blocks_.begin())
        if (const auto before = std::prev(block); before->second.free) {
            forget(before);
            before->second.size += block->second.size;
            blocks_.erase(block);
            block = before;
        }
    set_free(block);
}

void Arena::set_free(Blocks::iterator block) {
    block->second.free = true;
    free_.emplace(block->second.size, block->first);
}

/// Makes the range longer, so that its last block, free, has `bytes`.
bool Arena::grow(std::size_t bytes) {
    if (base_ == nullptr) {
        const Range range = reserve();
        if (range.base == nullptr) return false;
        base_ = range.base;
        limit_ = range.size;
        // Large pages: fewer misses of the address cache in every kernel. Only a wish: without them all works.
        ::madvise(base_, limit_, MADV_HUGEPAGE);
    }
    const auto last = blocks_.empty() ? blocks_.end() : std::prev(blocks_.end());
    const bool extend = last != blocks_.end() && last->second.free;
    const std::size_t here = extend ? last->second.size : 0;
    if (bytes - here > limit_ - end_) return false;  // also keeps the rounding below from wrapping
    const std::size_t more = round_up(bytes - here, page);
    if (more > limit_ - end_ || ::mprotect(base_ + end_, more, PROT_READ | PROT_WRITE) != 0) return false;
    ++growths_;
    if (extend) {
        forget(last);
        last->second.size += more;
        set_free(last);
    } else {
        set_free(blocks_.emplace(end_, Block{more, true}).first);
    }
    end_ += more;
    return true;
}

void Arena::trim() {
    for (const auto& [size, offset] : free_) {
        const std::size_t begin = round_up(offset, page);
        const std::size_t end = (offset + size) / page * page;
        if (begin < end) ::madvise(base_ + begin, end - begin, MADV_DONTNEED);
    }
    if (blocks_.empty() || !std::prev(blocks_.end())->second.free) return;
    const auto last = std::prev(blocks_.end());
    const std::size_t keep = round_up(last->first, page);
    if (::mprotect(base_ + keep, end_ - keep, PROT_NONE) != 0) return;
    forget(last);
    last->second.size = keep - last->first;
    if (last->second.size == 0)
        blocks_.erase(last);
    else
        set_free(last);
    end_ = keep;
}

}  // namespace uipe::tensor::cpu
