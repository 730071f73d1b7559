#include "tensor/cuda/device/tensor_map.h"

#include "tensor/cuda/runtime.h"

namespace uipe::tensor::cuda {

#ifdef __CUDACC__
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

/// The driver's function, found at run time: the program starts where there is no driver.
Encode encode() {
    static const Encode function = [] {
        void* found = nullptr;
        cudaDriverEntryPointQueryResult result{};
        check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result));
        require(result == cudaDriverEntryPointSuccess && found != nullptr,
                "the NVIDIA driver has no cuTensorMapEncodeTiled; one for CUDA 12.0 or newer has");
        return reinterpret_cast<Encode>(found);
    }();
    return function;
}

CUtensorMapSwizzle driver_swizzle(dev::Swizzle swizzle) {
    switch (swizzle) {
        case dev::Swizzle::bytes128:
            return CU_TENSOR_MAP_SWIZZLE_128B;
        case dev::Swizzle::bytes64:
            return CU_TENSOR_MAP_SWIZZLE_64B;
        case dev::Swizzle::bytes32:
            return CU_TENSOR_MAP_SWIZZLE_32B;
        case dev::Swizzle::none:
            break;
    }
    return CU_TENSOR_MAP_SWIZZLE_NONE;
}

}  // namespace

dev::TensorMap tensor_map(const BoxOf& b) {
    check_box(b);
    dev::TensorMap map;
    cuuint64_t sizes[3];
    cuuint32_t box[3];
    for (int i = 0; i < 3; ++i) {
        sizes[i] = static_cast<cuuint64_t>(b.sizes[i]);
        box[i] = static_cast<cuuint32_t>(b.box[i]);
    }
    const cuuint64_t strides[2] = {static_cast<cuuint64_t>(b.strides[0]), static_cast<cuuint64_t>(b.strides[1])};
    const cuuint32_t steps[3] = {1, 1, 1};
    const CUresult result = encode()(&map.map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void*>(b.base), sizes,
                                     strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, driver_swizzle(b.swizzle),
                                     CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    require(result == CUDA_SUCCESS, "the NVIDIA driver makes no map of a tensor: CUresult ", static_cast<int>(result));
    return map;
}

#else

dev::TensorMap tensor_map(const BoxOf& b) {
    check_box(b);
    return {{reinterpret_cast<std::uintptr_t>(b.base),
             {b.sizes[0], b.sizes[1], b.sizes[2]},
             {b.strides[0], b.strides[1]},
             {b.box[0], b.box[1], b.box[2]},
             dev::span_of(b.swizzle)}};
}

#endif

}  // namespace uipe::tensor::cuda
