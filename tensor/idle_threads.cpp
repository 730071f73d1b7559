#include "tensor/idle_threads.h"

#include <unistd.h>

#include <climits>
#include <cstdlib>

namespace uipe::tensor {

void let_idle_threads_sleep(char** argv) {
    if (std::getenv("GOMP_SPINCOUNT") != nullptr || std::getenv("OMP_WAIT_POLICY") != nullptr) return;
    char program[PATH_MAX + 1] = {};
    if (::readlink("/proc/self/exe", program, PATH_MAX) <= 0) return;
    // Fewer cost steps of training a few per cent on an idle machine, more cost a busy one.
    if (::setenv("GOMP_SPINCOUNT", "2000", 1) == 0) ::execv(program, argv);
}

}  // namespace uipe::tensor
