// The functions of NCCL that we call, found when ranks with a GPU each first need them: the program starts, and says
// what is missing, without the library. Types and numbers are those of its interface since version 2.10, written out
// here, for NCCL's header is not part of every CUDA install. The emulated preset serves the same functions by MPI, on
// memory of the host (emulated.cpp).
#pragma once

#include <cstddef>

#include "tensor/cuda/runtime.h"

namespace uipe::tensor::nccl {

struct Opaque;
using Handle = Opaque*;
struct UniqueId {
    char bytes[128];
};
enum class Result : int { success = 0 };
enum class Type : int { f32 = 7, f64 = 8, bf16 = 9 };
enum class Reduction : int { sum = 0 };

struct Nccl {
    Result (*get_unique_id)(UniqueId* id);
    Result (*comm_init_rank)(Handle* comm, int ranks, UniqueId id, int rank);
    Result (*comm_destroy)(Handle comm);
    const char* (*error_string)(Result result);
    Result (*all_reduce)(const void* x, void* y, std::size_t n, Type, Reduction, Handle, cuda::Stream);
    Result (*reduce_scatter)(const void* x, void* y, std::size_t n_of_y, Type, Reduction, Handle, cuda::Stream);
    Result (*all_gather)(const void* x, void* y, std::size_t n_of_x, Type, Handle, cuda::Stream);
    Result (*broadcast)(const void* x, void* y, std::size_t n, Type, int root, Handle, cuda::Stream);
    Result (*send)(const void* x, std::size_t n, Type, int to, Handle, cuda::Stream);
    Result (*receive)(void* y, std::size_t n, Type, int from, Handle, cuda::Stream);
    Result (*group_start)();
    Result (*group_end)();
};

/// The library, loaded at the first call. InputError says where it was looked for.
const Nccl& nccl();

}  // namespace uipe::tensor::nccl
