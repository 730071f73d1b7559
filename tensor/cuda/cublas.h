// The functions of cuBLASLt that we call. The library is found when a product first needs it, so that the program
// starts, and says what is missing, without it; the header gives types alone.
#pragma once

#include <cublasLt.h>

namespace uipe::tensor::cuda {

struct Cublas {
    decltype(&::cublasLtCreate) create;
    decltype(&::cublasLtGetStatusName) status_name;
    decltype(&::cublasLtMatmul) matmul;
    decltype(&::cublasLtMatmulAlgoCheck) algo_check;
    decltype(&::cublasLtMatmulAlgoGetHeuristic) algo_heuristic;
    decltype(&::cublasLtMatmulDescCreate) desc_create;
    decltype(&::cublasLtMatmulDescDestroy) desc_destroy;
    decltype(&::cublasLtMatmulDescSetAttribute) desc_set;
    decltype(&::cublasLtMatrixLayoutCreate) layout_create;
    decltype(&::cublasLtMatrixLayoutDestroy) layout_destroy;
    decltype(&::cublasLtMatmulPreferenceCreate) preference_create;
    decltype(&::cublasLtMatmulPreferenceDestroy) preference_destroy;
    decltype(&::cublasLtMatmulPreferenceSetAttribute) preference_set;

    cublasLtHandle_t handle = nullptr;
};

/// The library, loaded at the first call. Error says where it was looked for.
const Cublas& cublas();

}  // namespace uipe::tensor::cuda
