#include "tests/cuda/primitives.h"

#include "tensor/cuda/cuda.h"
#include "tensor/cuda/device/device.h"
#include "tests/cuda/buffer.h"

namespace uipe::tensor::test {
namespace {

using cuda::launch;

// PTX ISA, "Matrix fragments for mma.m16n8k16 with floating point type": groupID = lane >> 2, threadID_in_group =
// lane % 4. A: a0,a1 row groupID; a2,a3 row groupID + 8; a4,a5 and a6,a7 the same rows; columns threadID * 2 + (i & 1),
// plus 8 for i >= 4. B: row threadID * 2 + (i & 1), plus 8 for i >= 2; column groupID. C, D: row groupID for i < 2,
// else groupID + 8; column threadID * 2 + (i & 1).
__global__ void mma_kernel(float* d, const float* a, const float* b, const float* c) {
    const int group = dev::lane() >> 2;
    const int thread = dev::lane() % 4;
    std::uint32_t ra[4];
    for (int i = 0; i < 8; i += 2) {
        const int row = (i < 2 || (i >= 4 && i < 6)) ? group : group + 8;
        const int column = thread * 2 + (i >= 4 ? 8 : 0);
        ra[i / 2] = dev::pack(a[row * 16 + column], a[row * 16 + column + 1]);
    }
    std::uint32_t rb[2];
    for (int i = 0; i < 4; i += 2) {
        const int row = thread * 2 + (i >= 2 ? 8 : 0);
        rb[i / 2] = dev::pack(b[row * 8 + group], b[(row + 1) * 8 + group]);
    }
    float rd[4];
    for (int i = 0; i < 4; ++i) rd[i] = c[(i < 2 ? group : group + 8) * 8 + thread * 2 + (i & 1)];
    dev::mma(rd, ra, rb[0], rb[1]);
    for (int i = 0; i < 4; ++i) d[(i < 2 ? group : group + 8) * 8 + thread * 2 + (i & 1)] = rd[i];
}

template <bool transposed>
__global__ void load_matrix_kernel(std::uint32_t* out) {
    DEV_SHARED(std::uint16_t, tiles, 4 * 64);
    for (int i = dev::thread(); i < 256; i += dev::threads()) tiles[i] = static_cast<std::uint16_t>(i);
    dev::sync();
    std::uint32_t r[4];
    dev::load_matrix<transposed>(r, tiles + dev::lane() * 8);
    for (int m = 0; m < 4; ++m) out[dev::lane() * 4 + m] = r[m];
}

__global__ void copy_kernel(std::uint32_t* out, const std::uint32_t* x) {
    DEV_DYNAMIC_SHARED(bytes);
    auto* tile = reinterpret_cast<std::uint32_t*>(bytes);
    const int half = 32 * 4;
    dev::copy_async(tile + dev::thread() * 4, x + dev::thread() * 4);
    dev::copy_commit();
    dev::copy_async(tile + half + dev::thread() * 4, x + half + dev::thread() * 4, dev::thread() % 2 == 0);
    dev::copy_commit();
    dev::copy_wait<1>();
    dev::sync();
    for (int i = dev::thread(); i < half; i += dev::threads()) out[i] = tile[half - 1 - i];
    dev::copy_wait<0>();
    dev::sync();
    for (int i = dev::thread(); i < half; i += dev::threads()) out[half + i] = tile[half + i];
}

__global__ void warp_kernel(float* out) {
    const int l = dev::lane();
    const auto x = static_cast<float>(l * l);
    out[l] = dev::shuffle_xor(x, 5);
    out[32 + l] = dev::shuffle(x, 3 * l % 32);
    out[64 + l] = static_cast<float>(dev::ballot(l % 2 == 1) >> (l % 2));
    out[96 + l] = dev::warp_sum(x);
    out[128 + l] = dev::warp_max(x);
}

__global__ void block_kernel(float* out) {
    DEV_SHARED(float, buffer, 32);
    const auto x = static_cast<float>(dev::thread());
    out[dev::thread()] = dev::block_sum(x, buffer);
    out[dev::threads() + dev::thread()] = dev::block_max(x, buffer);
}

__global__ void math_kernel(float* out, const float* x, int n) {
    for (int i = dev::thread(); i < n; i += dev::threads()) {
        out[i] = dev::exp2(x[i]);
        out[n + i] = dev::exp(x[i]);
        out[2 * n + i] = dev::log(x[i]);
        out[3 * n + i] = dev::log1p(x[i]);
        out[4 * n + i] = dev::sqrt(x[i]);
    }
}

__global__ void round_kernel(bf16* out, const float* x, int n) {
    for (int i = dev::thread(); i < n; i += dev::threads()) out[i] = dev::to_bf16(x[i]);
}

}  // namespace

std::vector<float> mma_product(const std::vector<float>& a, const std::vector<float>& b, const std::vector<float>& c) {
    const Buffer<float> d(128);
    launch(mma_kernel, {.threads = 32}, d.get(), Buffer<float>(a).get(), Buffer<float>(b).get(),
           Buffer<float>(c).get());
    return d.host();
}

std::vector<std::uint32_t> loaded_matrices(bool transposed) {
    const Buffer<std::uint32_t> out(128);
    launch(transposed ? load_matrix_kernel<true> : load_matrix_kernel<false>, {.threads = 32}, out.get());
    return out.host();
}

std::vector<std::uint32_t> copied(const std::vector<std::uint32_t>& x) {
    const Buffer<std::uint32_t> out(256);
    launch(copy_kernel, {.threads = 32, .shared = 256 * 4}, out.get(), Buffer<std::uint32_t>(x).get());
    return out.host();
}

std::array<std::vector<float>, 5> warp_results() {
    const Buffer<float> out(160);
    launch(warp_kernel, {.threads = 32}, out.get());
    const std::vector<float> all = out.host();
    std::array<std::vector<float>, 5> parts;
    for (std::size_t i = 0; i < all.size(); ++i) parts[i / 32].push_back(all[i]);
    return parts;
}

std::vector<float> block_results(int n) {
    const Buffer<float> out(static_cast<std::size_t>(2 * n));
    launch(block_kernel, {.threads = n}, out.get());
    return out.host();
}

std::vector<float> math_results(const std::vector<float>& x) {
    const Buffer<float> out(5 * x.size());
    launch(math_kernel, {.threads = 32}, out.get(), Buffer<float>(x).get(), static_cast<int>(x.size()));
    return out.host();
}

std::vector<bf16> rounded(const std::vector<float>& x) {
    const Buffer<bf16> out(x.size());
    launch(round_kernel, {.threads = 32}, out.get(), Buffer<float>(x).get(), static_cast<int>(x.size()));
    return out.host();
}

}  // namespace uipe::tensor::test
