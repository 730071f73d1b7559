#include "unlearn/stop_signals.h"

#include <pthread.h>

#include <array>
#include <csignal>
#include <thread>

namespace uipe::unlearn {
namespace {

std::atomic<bool> stop_asked{false};
std::atomic<int> alive{0};  // of StopSignals

constexpr std::array watched{SIGINT, SIGTERM, SIGUSR1};

sigset_t set_of_watched() {
    sigset_t set;
    sigemptyset(&set);
    for (const int number : watched) sigaddset(&set, number);
    return set;
}

/// As the signal would have ended the process that did not wait for it. Returns where the process ignores it.
void follow(int number) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number);
    (void)std::raise(number);
    pthread_sigmask(SIG_UNBLOCK, &set, nullptr);  // now it arrives
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

void watch() {
    const sigset_t set = set_of_watched();
    for (int number = 0; sigwait(&set, &number) == 0;) {
        if (alive > 0 && !stop_asked.exchange(true)) continue;
        if (alive > 0) (void)std::signal(number, SIG_DFL);  // also where a shell had it ignored
        follow(number);
    }
}

}  // namespace

void watch_stop_signals() {
    const sigset_t set = set_of_watched();
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
    std::thread(watch).detach();
}

StopSignals::StopSignals() { ++alive; }
StopSignals::~StopSignals() { --alive; }

const std::atomic<bool>& StopSignals::asked() { return stop_asked; }

}  // namespace uipe::unlearn
