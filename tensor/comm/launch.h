// What a launcher (Open MPI's mpirun, MPICH's mpiexec, Slurm's srun) says to a process that it starts, by variables of
// the environment.
#pragma once

#include <string>

namespace uipe::tensor {

struct Launched {
    int ranks = 1;  // 0: several, and it is left to MPI to say how many
    int rank = 0;
    int local_ranks = 1;  // of those, on this machine
    int local_rank = 0;
};

/// As the variables are now. One rank, without a launcher.
Launched launched();

/// "rank 3: " for messages, or nothing in a process alone.
std::string rank_label();

/// Threads for a process that was not told how many: all processors that it may run on; among several ranks on a
/// machine OMP_NUM_THREADS, or else its share of the launcher's processors.
int default_threads();

}  // namespace uipe::tensor
