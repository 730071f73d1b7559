// OpenMP's idle threads spin before they sleep, GNU's for some milliseconds: on a machine with other work they take the
// processor from the thread that they wait for, and a training of a small model was seen at a hundredth of its speed.
#pragma once

namespace uipe::tensor {

/// To be called first in main: idle threads spin for some microseconds, unless GOMP_SPINCOUNT or OMP_WAIT_POLICY say
/// otherwise. OpenMP reads them before main, so the program starts itself anew with the former set; where it cannot,
/// this returns and nothing has changed.
void let_idle_threads_sleep(char** argv);

}  // namespace uipe::tensor
