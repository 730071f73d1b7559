#include "tensor/comm/comm.h"
#include "tensor/comm/launch.h"
#ifdef UIPE_MPI
#include "tensor/comm/mpi/mpi.h"
#include "tensor/comm/mpi/mpi_comm.h"
#endif
#ifdef UIPE_NCCL
#include "tensor/comm/nccl/nccl_comm.h"
#endif

namespace uipe::tensor {

std::unique_ptr<Comm> world([[maybe_unused]] Device device, [[maybe_unused]] bool fixed_order) {
    if (launched().ranks == 1) return self_comm();
#ifdef UIPE_MPI
    std::unique_ptr<Comm> ranks = mpi_comm();
#ifdef UIPE_NCCL
    if (device.kind == Device::Kind::cuda) return nccl_comm(std::move(ranks), fixed_order);
#endif
    return ranks;
#else
    throw InputError(
        "a launcher started several ranks of this program, which was built without MPI; ./run install installs it "
        "(libopenmpi-dev), then build again, or start one process without the launcher");
#endif
}

int finish_ranks(int status) {
#ifdef UIPE_MPI
    mpi::finish(status);
#endif
    return status;
}

}  // namespace uipe::tensor
