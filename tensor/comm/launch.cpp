#include "tensor/comm/launch.h"

#include <omp.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <initializer_list>
#include <optional>

#include "tensor/base/error.h"

namespace uipe::tensor {
namespace {

/// The number that the first of the variables begins with ("2(x3),1" has one for each group of machines).
std::optional<int> number(std::initializer_list<const char*> variables) {
    for (const char* variable : variables)
        if (const char* text = std::getenv(variable); text != nullptr) {
            char* end = nullptr;
            const long value = std::strtol(text, &end, 10);
            if (end != text && value >= 0 && value < 1 << 24) return static_cast<int>(value);
        }
    return {};
}

/// Processors that a process may run on.
int processors_of(pid_t process) {
    cpu_set_t set;
    return ::sched_getaffinity(process, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : omp_get_num_procs();
}

}  // namespace

Launched launched() {
    // Slurm's variables of the step, not of the job: a batch script has the latter too, and is one process.
    constexpr const char* pairs[][2] = {{"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"},
                                        {"PMI_SIZE", "PMI_RANK"},
                                        {"SLURM_STEP_NUM_TASKS", "SLURM_PROCID"}};
    Launched out;
    bool found = false;
    for (const auto& [size, rank] : pairs)
        if (const auto n = number({size}), r = number({rank}); !found && n && r && *n > 0) {
            out.ranks = *n;
            out.rank = *r;
            found = true;
        }
    if (const auto r = number({"PMIX_RANK"}); !found && r) {
        out.ranks = 0;
        out.rank = *r;
    }
    if (out.ranks == 1) return out;
    out.local_rank = number({"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"}).value_or(out.rank);
    out.local_ranks = std::max(1, number({"OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_TASKS_PER_NODE"})
                                      .value_or(std::max(1, out.ranks)));
    return out;
}

std::string rank_label() {
    const Launched place = launched();
    return place.ranks == 1 ? "" : cat("rank ", place.rank, ": ");
}

int default_threads() {
    const int own = omp_get_num_procs();
    const int ranks = launched().local_ranks;
    if (ranks == 1) return own;
    if (const auto given = number({"OMP_NUM_THREADS"}); given && *given > 0) return *given;
    // The launcher's processors are those of all its ranks here; a rank that it has bound to some of them has fewer.
    return std::max(1, std::min(own, processors_of(::getppid()) / ranks));
}

}  // namespace uipe::tensor
