#include "tensor/comm/comm.h"
#include "tensor/idle_threads.h"
#include "unlearn/cli/program.h"
#include "unlearn/stop_signals.h"

int main(int argc, char** argv) {
    uipe::tensor::let_idle_threads_sleep(argv);
    uipe::unlearn::watch_stop_signals();
    return uipe::tensor::finish_ranks(uipe::unlearn::run_program(argc, argv));
}
