// Host memory for tensors: one range of addresses that grows at its end. A request takes the first free block that fits
// (the range then stays shorter than when it takes the smallest), and a block that comes back merges with its free
// neighbours, so that what one tensor leaves serves another of any size. A training step asks for the same sizes in the
// same order every time, so after the first ones the range no longer grows.
#pragma once

#include <cstddef>
#include <map>
#include <set>
#include <utility>

namespace uipe::tensor::cpu {

class Arena {
public:
    /// A block of `bytes`, a multiple of 64, aligned to 64; nullptr when the system gives no more.
    void* take(std::size_t bytes);
    /// Takes back a block from take().
    void give(void* block);
    /// Lets the system have the pages of free blocks until they are used again.
    void trim();

    std::size_t extent() const { return end_; }       // bytes from the first block to the end of the last
    std::size_t growths() const { return growths_; }  // how often the system was asked

private:
    struct Block {
        std::size_t size;
        bool free;
    };
    using Blocks = std::map<std::size_t, Block>;  // by offset, without gaps

    bool grow(std::size_t bytes);
    void set_free(Blocks::iterator block);
    void forget(Blocks::iterator block) { free_.erase({block->second.size, block->first}); }

    std::byte* base_ = nullptr;
    std::size_t limit_ = 0;  // addresses reserved
    std::size_t end_ = 0;    // addresses usable
    std::size_t growths_ = 0;
    Blocks blocks_;
    std::set<std::pair<std::size_t, std::size_t>> free_;  // size and offset of free blocks
};

}  // namespace uipe::tensor::cpu
