#include "tensor/staging.h"

#include "tensor/allocator.h"
#include "tensor/profile.h"
#ifdef UIPE_CUDA
#include "tensor/cuda/runtime.h"
#endif

namespace uipe::tensor {
namespace {

#ifdef UIPE_CUDA
cuda::Pinned& memory(const std::shared_ptr<void>& pinned) { return *static_cast<cuda::Pinned*>(pinned.get()); }
#endif

/// Counts a copy of `bytes` for a profile.
profile::Timer timed(Device device, std::size_t bytes) {
    return {Family::copies, device, [bytes] { return Work{0.0, static_cast<double>(bytes)}; }};
}

}  // namespace

Device host_of(Device device) { return device.kind == Device::Kind::meta ? meta(Device{}) : Device{}; }

Staging::Staging(std::size_t bytes, Device device) : bytes_(bytes) {
    require(stands_for(device).kind == Device::Kind::cuda, "staging for tensors that are on the host");
    const MemoryScope scope(MemoryClass::workspace);
    if (device.kind == Device::Kind::meta)
        planned_ = Tensor::empty({static_cast<std::int64_t>((bytes + 1) / 2)}, DType::bf16, host_of(device));
#ifdef UIPE_CUDA
    else
        pinned_ = std::make_shared<cuda::Pinned>(bytes);
#endif
}

Tensor Staging::place(const Shape& shape, DType dtype) {
    if (planned_.defined()) return here_ = Tensor::uncounted(shape, dtype, planned_.device());
#ifdef UIPE_CUDA
    memory(pinned_).wait();
    here_ = Tensor::borrow(memory(pinned_).data(), shape, dtype, pinned_);
#endif
    require(here_.nbytes() <= bytes_, "staging of ", bytes_, " bytes for a tensor of ", here_.nbytes());
    return here_;
}

void Staging::fetch(const Tensor& x) {
    place(x.shape(), x.dtype());
    const profile::Timer timer = timed(x.device(), x.nbytes());
#ifdef UIPE_CUDA
    if (pinned_) memory(pinned_).fetch(x.raw(), x.nbytes());
#endif
}

Tensor Staging::fetched() const {
#ifdef UIPE_CUDA
    if (pinned_) memory(pinned_).wait();
#endif
    return here_;
}

void Staging::send(const Tensor& y) {
    require(y.shape() == here_.shape() && y.dtype() == here_.dtype(), "sent ", name_of(here_.dtype()),
            to_string(here_.shape()), " to ", name_of(y.dtype()), to_string(y.shape()));
    const profile::Timer timer = timed(y.device(), y.nbytes());
#ifdef UIPE_CUDA
    if (pinned_) memory(pinned_).send(y.raw(), y.nbytes());
#endif
}

}  // namespace uipe::tensor
