#if !defined(UIPE_EMULATED)

#include <dlfcn.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "tensor/comm/nccl/nccl.h"

namespace uipe::tensor::nccl {
namespace {

/// Where the loader looks, then where NCCL and CUDA are usually installed.
void* open_library() {
    std::vector<std::string> folders{""};
    for (const char* variable : {"NCCL_HOME", "CUDA_HOME", "CUDA_PATH"})
        if (const char* root = std::getenv(variable); root != nullptr && *root != '\0')
            for (const char* folder : {"/lib/", "/lib64/"}) folders.push_back(std::string(root) + folder);
    for (const char* folder : {"/usr/local/cuda/lib64/", "/usr/lib/x86_64-linux-gnu/", "/opt/cuda/lib64/"})
        folders.emplace_back(folder);
    for (const std::string& folder : folders)
        if (void* library = ::dlopen((folder + "libnccl.so.2").c_str(), RTLD_NOW | RTLD_LOCAL); library != nullptr)
            return library;
    throw InputError(
        "several ranks on GPUs: libnccl.so.2 is neither on the loader's path nor in /usr/local/cuda/lib64; install "
        "NCCL "
        "(libnccl2), or name its folder in LD_LIBRARY_PATH");
}

template <class F>
void find(F& function, void* library, const char* name) {
    function = reinterpret_cast<F>(::dlsym(library, name));
    require(function != nullptr, "libnccl.so.2 has no function ", name);
}

Nccl load() {
    void* library = open_library();
    Nccl n{};
    find(n.get_unique_id, library, "ncclGetUniqueId");
    find(n.comm_init_rank, library, "ncclCommInitRank");
    find(n.comm_destroy, library, "ncclCommDestroy");
    find(n.error_string, library, "ncclGetErrorString");
    find(n.all_reduce, library, "ncclAllReduce");
    find(n.reduce_scatter, library, "ncclReduceScatter");
    find(n.all_gather, library, "ncclAllGather");
    find(n.broadcast, library, "ncclBroadcast");
    find(n.send, library, "ncclSend");
    find(n.receive, library, "ncclRecv");
    find(n.group_start, library, "ncclGroupStart");
    find(n.group_end, library, "ncclGroupEnd");
    return n;
}

}  // namespace

const Nccl& nccl() {
    static const Nccl instance = load();
    return instance;
}

}  // namespace uipe::tensor::nccl

#endif
