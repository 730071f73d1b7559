#include "tests/cuda/hopper.h"

#include "tensor/cuda/device/tensor_map.h"
#include "tests/cuda/buffer.h"

namespace uipe::tensor::test {
namespace {

using cuda::launch;

constexpr int image_bytes = 16 * 1024;

/// What a descriptor says.
struct Place {
    int begin, leading, stride, swizzle;
};
Place place_of(const InShared& x) { return {x.begin, x.leading, x.stride, x.swizzle}; }
__device__ inline std::uint64_t matrix(const std::byte* image, const Place& p) {
    return dev::matrix_at(image + p.begin, p.leading, p.stride, static_cast<dev::Swizzle>(p.swizzle));
}

/// An image of 16 KiB.
Buffer<std::uint16_t> image_of(const InShared& x) {
    std::vector<std::uint16_t> image = x.image;
    image.resize(image_bytes / 2, 0x7FC0);  // NaN where nothing should be read
    return Buffer<std::uint16_t>(image);
}

// PTX ISA, "Register fragment layout for matrix A" and "… accumulator matrix D" of wgmma.m64nNk16: warp w of the four
// has rows 16 w + groupID and groupID + 8; a0, a1 (a4, a5) are of the first, a2, a3 (a6, a7) of the second; columns as
// in mma.m16n8k16, and d as its c for each eight columns.
template <int N, bool across, bool registers, bool add>
__global__ void product_kernel(float* d, const std::uint16_t* a_image, Place a, const float* a_values,
                               const std::uint16_t* b_image, Place b, const float* c) {
    if constexpr (dev::hopper) {
        DEV_DYNAMIC_SHARED_1024(shared);
        auto* image = reinterpret_cast<std::uint16_t*>(shared);
        for (int i = dev::thread(); i < image_bytes / 2; i += dev::threads()) {
            image[i] = a_image[i];
            image[image_bytes / 2 + i] = b_image[i];
        }
        dev::async_fence();
        dev::sync();
        const int row = dev::warp() * 16 + (dev::lane() >> 2);
        const int column = dev::lane() % 4 * 2;
        float sum[N / 8][4];
        DEV_UNROLL
        for (int j = 0; j < N / 8; ++j) {
            DEV_UNROLL
            for (int i = 0; i < 4; ++i) sum[j][i] = c[(row + (i < 2 ? 0 : 8)) * N + 8 * j + column + (i & 1)];
        }
        const std::uint64_t right = matrix(shared + image_bytes, b);
        std::uint32_t left[1][4] = {};
        if constexpr (registers) {
            DEV_UNROLL
            for (int i = 0; i < 8; i += 2) {
                const float* const at = a_values + (row + (i == 2 || i == 6 ? 8 : 0)) * 16 + column + (i >= 4 ? 8 : 0);
                left[0][i / 2] = dev::pack(at[0], at[1]);
            }
            dev::products_begin(sum, left);
            dev::multiply<across>(sum, left[0], right, add);
        } else {
            dev::products_begin(sum);
            dev::multiply<across>(sum, matrix(shared, a), right, add);
        }
        dev::products_commit();
        dev::products_wait<0>(sum);
        DEV_UNROLL
        for (int j = 0; j < N / 8; ++j) {
            DEV_UNROLL
            for (int i = 0; i < 4; ++i) d[(row + (i < 2 ? 0 : 8)) * N + 8 * j + column + (i & 1)] = sum[j][i];
        }
    }
}

__global__ void box_kernel(bf16* out, const DEV_GRID_CONSTANT dev::TensorMap map, int x, int y, int z, int elements) {
    if constexpr (dev::hopper) {
        DEV_DYNAMIC_SHARED_1024(shared);
        auto* const barrier = reinterpret_cast<dev::Barrier*>(shared + image_bytes);
        if (dev::thread() == 0) {
            dev::barrier_init(barrier, 1);
            dev::barriers_ready();
        }
        dev::sync();
        if (dev::thread() == 0) {
            dev::barrier_arrive_expect(barrier, 2 * elements);
            dev::copy_box(shared, map, barrier, x, y, z);
        }
        dev::barrier_wait(barrier, 0);
        for (int i = dev::thread(); i < elements; i += dev::threads())
            out[i] = reinterpret_cast<const bf16*>(shared)[i];
    }
}

/// Warp 0 fills, warps 1 and 2 both read each item.
__global__ void ring_kernel(std::uint32_t* out, int items) {
    if constexpr (dev::hopper) {
        DEV_SHARED(std::uint32_t, values, 2 * 32);
        DEV_SHARED(dev::Barrier, barriers, 4);
        if (dev::thread() == 0) {
            for (int i = 0; i < 2; ++i) {
                dev::barrier_init(barriers + i, 32);
                dev::barrier_init(barriers + 2 + i, 64);
            }
            dev::barriers_ready();
        }
        dev::sync();
        for (int i = 0; i < items; ++i) {
            const int parity = i / 2 % 2;
            std::uint32_t* const value = values + i % 2 * 32 + dev::lane();
            if (dev::warp() == 0) {
                dev::barrier_wait(barriers + 2 + i % 2, 1 - parity);
                *value = static_cast<std::uint32_t>(100 * i + dev::lane());
                dev::barrier_arrive(barriers + i % 2);
            } else {
                dev::barrier_wait(barriers + i % 2, parity);
                out[(i * 2 + dev::warp() - 1) * 32 + dev::lane()] = values[i % 2 * 32 + (dev::lane() + 1) % 32];
                dev::barrier_arrive(barriers + 2 + i % 2);
            }
        }
    }
}

/// Warps 0 and 2, and warps 1 and 3; the second pair goes round once more.
__global__ void pairs_kernel(std::uint32_t* out) {
    if constexpr (dev::hopper) {
        DEV_SHARED(std::uint32_t, values, 128);
        const int pair = dev::warp() % 2;
        std::uint32_t x = static_cast<std::uint32_t>(dev::thread());
        for (int round = 0; round <= pair; ++round) {
            values[dev::thread()] = x + 1000;
            dev::sync_some(1 + pair, 64);
            x = values[(dev::thread() + 64) % 128];
            dev::sync_some(1 + pair, 64);
        }
        out[dev::thread()] = x;
    }
}

template <int N, bool across>
std::vector<float> product(const InShared& a, const std::vector<float>& a_values, const InShared& b,
                           const std::vector<float>& c, bool add) {
    const Buffer<float> d(static_cast<std::size_t>(64 * N));
    const bool registers = a.image.empty();
    const auto run = [&](auto kernel) {
        launch(kernel, {.threads = 128, .shared = 2 * image_bytes}, d.get(), image_of(a).get(), place_of(a),
               Buffer<float>(a_values).get(), image_of(b).get(), place_of(b), Buffer<float>(c).get());
    };
    if (registers)
        run(product_kernel<N, across, true, true>);
    else if (add)
        run(product_kernel<N, across, false, true>);
    else
        run(product_kernel<N, across, false, false>);
    return d.host();
}

}  // namespace

bool has_hopper() { return cuda::compute_capability() == 0 || cuda::compute_capability() / 10 == 9; }

std::vector<float> group_product(int N, const InShared& a, const std::vector<float>& a_values, const InShared& b,
                                 bool across, const std::vector<float>& c) {
    if (N == 64)
        return across ? product<64, true>(a, a_values, b, c, true) : product<64, false>(a, a_values, b, c, true);
    return across ? product<128, true>(a, a_values, b, c, true) : product<128, false>(a, a_values, b, c, true);
}

std::vector<float> group_product_afresh(int N, const InShared& a, const InShared& b, bool across) {
    const std::vector<float> none(static_cast<std::size_t>(64 * N), std::numeric_limits<float>::quiet_NaN());
    if (N == 64) return across ? product<64, true>(a, {}, b, none, false) : product<64, false>(a, {}, b, none, false);
    return across ? product<128, true>(a, {}, b, none, false) : product<128, false>(a, {}, b, none, false);
}

std::vector<bf16> copied_box(const std::vector<bf16>& values, const BoxCopied& b) {
    const Buffer<bf16> tensor(values);
    const int elements = b.box[0] * b.box[1] * b.box[2];
    const Buffer<bf16> out(static_cast<std::size_t>(elements));
    const auto base = reinterpret_cast<std::uintptr_t>(tensor.get()) + static_cast<std::uintptr_t>(2 * b.base);
    const dev::TensorMap map = cuda::tensor_map({.base = reinterpret_cast<const void*>(base),
                                                 .sizes = {b.sizes[0], b.sizes[1], b.sizes[2]},
                                                 .strides = {b.strides[0], b.strides[1]},
                                                 .box = {b.box[0], b.box[1], b.box[2]},
                                                 .swizzle = static_cast<dev::Swizzle>(b.swizzle)});
    launch(box_kernel, {.threads = 128, .shared = image_bytes + 16}, out.get(), map, b.at[0], b.at[1], b.at[2],
           elements);
    return out.host();
}

std::vector<std::uint32_t> through_a_ring(int items) {
    const Buffer<std::uint32_t> out(static_cast<std::size_t>(items * 64));
    launch(ring_kernel, {.threads = 96}, out.get(), items);
    return out.host();
}

std::vector<std::uint32_t> exchanged_in_pairs() {
    const Buffer<std::uint32_t> out(128);
    launch(pairs_kernel, {.threads = 128}, out.get());
    return out.host();
}

}  // namespace uipe::tensor::test
