#if !defined(UIPE_EMULATED)

#include "tensor/cuda/cublas.h"

#include <dlfcn.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "tensor/cuda/runtime.h"

namespace uipe::tensor::cuda {
namespace {

/// Where the loader looks, then where CUDA is usually installed. Version 12 has the same functions, numbers and
/// structures, as far as we use them.
std::vector<std::string> places() {
    std::vector<std::string> folders{""};
    for (const char* variable : {"CUDA_HOME", "CUDA_PATH"})
        if (const char* root = std::getenv(variable); root != nullptr && *root != '\0')
            folders.push_back(std::string(root) + "/lib64/");
    for (const char* folder : {"/usr/local/cuda/lib64/", "/usr/local/cuda-13/lib64/", "/usr/local/cuda-12/lib64/",
                               "/usr/lib/x86_64-linux-gnu/", "/opt/cuda/lib64/"})
        folders.emplace_back(folder);
    std::vector<std::string> all;
    for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12"})
        for (const std::string& folder : folders) all.push_back(folder + name);
    return all;
}

void* open_library() {
    for (const std::string& place : places())
        if (void* library = ::dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL); library != nullptr) return library;
    throw InputError(
        "--device cuda: neither libcublasLt.so.13 nor .12 is on the loader's path or in /usr/local/cuda/lib64; install "
        "cuBLAS (part of the CUDA toolkit), or name its folder in LD_LIBRARY_PATH");
}

template <class F>
void find(F& function, void* library, const char* name) {
    function = reinterpret_cast<F>(::dlsym(library, name));
    require(function != nullptr, "libcublasLt has no function ", name);
}

Cublas load() {
    void* library = open_library();
    Cublas c{};
    find(c.create, library, "cublasLtCreate");
    find(c.status_name, library, "cublasLtGetStatusName");
    find(c.matmul, library, "cublasLtMatmul");
    find(c.algo_check, library, "cublasLtMatmulAlgoCheck");
    find(c.algo_heuristic, library, "cublasLtMatmulAlgoGetHeuristic");
    find(c.desc_create, library, "cublasLtMatmulDescCreate");
    find(c.desc_destroy, library, "cublasLtMatmulDescDestroy");
    find(c.desc_set, library, "cublasLtMatmulDescSetAttribute");
    find(c.layout_create, library, "cublasLtMatrixLayoutCreate");
    find(c.layout_destroy, library, "cublasLtMatrixLayoutDestroy");
    find(c.preference_create, library, "cublasLtMatmulPreferenceCreate");
    find(c.preference_destroy, library, "cublasLtMatmulPreferenceDestroy");
    find(c.preference_set, library, "cublasLtMatmulPreferenceSetAttribute");
    (void)stream();  // the device starts before the library does
    const cublasStatus_t status = c.create(&c.handle);
    require(status == CUBLAS_STATUS_SUCCESS, "cublasLtCreate: ", c.status_name(status));
    return c;
}

}  // namespace

const Cublas& cublas() {
    static const Cublas instance = load();
    return instance;
}

}  // namespace uipe::tensor::cuda

#endif
