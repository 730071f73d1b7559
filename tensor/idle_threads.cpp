#include "tensor/idle_threads.h"

#include <sys/auxv.h>
#include <unistd.h>

#include <climits>
#include <cstdlib>

namespace uipe::tensor {

void let_idle_threads_sleep(char** argv) {
    if (std::getenv("GOMP_SPINCOUNT") != nullptr || std::getenv("OMP_WAIT_POLICY") != nullptr) return;
    if (::getauxval(AT_BASE) == 0) return;  // started as an argument of the loader, which is /proc/self/exe then
    char program[PATH_MAX + 1] = {};
    if (::readlink("/proc/self/exe", program, PATH_MAX) <= 0) return;
    // Fewer cost steps of training a few per cent on an idle machine, more cost a busy one.
    if (::setenv("GOMP_SPINCOUNT", "2000", 1) == 0) ::execv(program, argv);
    ::unsetenv("GOMP_SPINCOUNT");
}

}  // namespace uipe::tensor
