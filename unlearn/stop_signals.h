// SIGINT, SIGTERM and SIGUSR1, which stop a run at a checkpoint. They are taken by a thread that waits for nothing
// else, for a handler would be called wherever some thread is: kernels of oneDNN keep their stack pointer in memory of
// the heap for a while, and what the system stores below it for a handler would fall on whatever lies there.
#pragma once

#include <atomic>

namespace uipe::unlearn {

/// To be called once, before any other thread is started: all of them leave the three to the thread that waits. Without
/// it they end the process, StopSignals or not.
void watch_stop_signals();

/// While one lives, the first signal asks for a stop, of this run or, where it had no step left, of the next, instead
/// of ending the process; a second one does not wait for the step or the evaluation to end. SIGUSR1 is for Open MPI's
/// launcher, which hands it on and waits; SIGTERM it follows by SIGKILL after a second.
class StopSignals {
public:
    StopSignals();
    ~StopSignals();
    StopSignals(const StopSignals&) = delete;
    StopSignals& operator=(const StopSignals&) = delete;

    /// Whether one has come.
    static const std::atomic<bool>& asked();
};

}  // namespace uipe::unlearn
