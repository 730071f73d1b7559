// What kernels call, and what UIPE_EMULATOR sets.
#include "tensor/cuda/device/emulator.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>

#include "tensor/base/error.h"
#include "tensor/cuda/device/block.h"
#include "tensor/cuda/device/sanitizers.h"

namespace uipe::emulator {

State state;

namespace {

/// UIPE_EMULATOR as options; InputError names the word that is none.
Options options_of_environment() {
    Options o;
    const char* text = std::getenv("UIPE_EMULATOR");
    std::istringstream words(text == nullptr ? "" : text);
    for (std::string word; words >> word;) {
        int read = 0;
        unsigned poison = 0;
        unsigned long long seed = 0;
        if (word == "order=forward" || word == "order=reverse") {
            o.order = word == "order=forward" ? Order::forward : Order::reverse;
        } else if (std::sscanf(word.c_str(), "order=random:%llu%n", &seed, &read) == 1 && word[read] == '\0') {
            o.order = Order::random;
            o.seed = seed;
        } else if (word == "copies=early" || word == "copies=late") {
            o.late_copies = word == "copies=late";
        } else if (std::sscanf(word.c_str(), "poison=%2x%n", &poison, &read) == 1 && word[read] == '\0') {
            o.poison = static_cast<std::uint8_t>(poison);
        } else {
            throw InputError(cat("UIPE_EMULATOR: '", word,
                                 "' is none of order=forward|reverse|random:SEED, copies=early|late, poison=HEX"));
        }
    }
    return o;
}

void complete(const Copy& copy) {
    writes(copy.to, 16);
    if (copy.from == nullptr) {
        std::memset(copy.to, 0, 16);
    } else {
        reads(copy.from, 16);
        std::memcpy(copy.to, copy.from, 16);
    }
}

}  // namespace

Options& options() {
    static Options instance = options_of_environment();
    return instance;
}

Statistics& statistics() {
    static Statistics instance;
    return instance;
}

void run(const Run& launch) { block().run(launch); }

void sync(const std::source_location& here) { block().sync(here); }
void sync_warp(const std::source_location& here) { block().meet("sync_warp", here, nullptr, nullptr, true); }
void meet(const char* operation, const std::source_location& here, void* data, void (*finish)(void* const* lanes)) {
    block().meet(operation, here, data, finish, false);
}

std::uint32_t ballot(bool yes, const std::source_location& here) {
    struct Data {
        bool yes;
        std::uint32_t result;
    } data{yes, 0};
    meet("ballot", here, &data, [](void* const* lanes) {
        std::uint32_t all = 0;
        for (int l = 0; l < 32; ++l) all |= static_cast<std::uint32_t>(static_cast<const Data*>(lanes[l])->yes) << l;
        for (int l = 0; l < 32; ++l) static_cast<Data*>(lanes[l])->result = all;
    });
    return data.result;
}

int atomic_add(int* p, int x) { return __atomic_fetch_add(p, x, __ATOMIC_RELAXED); }

std::uint32_t shared_address(const void* p) {
    return static_cast<std::uint32_t>(static_cast<const std::byte*>(p) - block().dynamic_shared());
}
std::byte* shared_array(const void* key, std::size_t bytes) { return block().shared_array(key, bytes); }
std::byte* dynamic_shared() { return block().dynamic_shared(); }

void read_shared(const void* p, const char* operation, const std::source_location& here) {
    block().check_shared(p, operation, here);
    reads(p, 16);
}

void copy_async(void* shared, const void* from, bool valid, const std::source_location& here) {
    block().check_shared(shared, "copy_async", here);
    if (valid) block().check_aligned(from, "copy_async", here);
    Thread& me = block().thread();
    const Copy copy{shared, valid ? from : nullptr, me.group};
    writes(shared, 16);
    if (options().late_copies)
        me.copies.push_back(copy);
    else
        complete(copy);
}

void copy_commit() { ++block().thread().group; }

void copy_wait(int pending) {
    Thread& me = block().thread();
    std::erase_if(me.copies, [&](const Copy& copy) {
        const bool due = copy.group < me.group - pending;
        if (due) complete(copy);
        return due;
    });
}

}  // namespace uipe::emulator
