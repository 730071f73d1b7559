#include "tensor/comm/comm.h"
#include "unlearn/cli/program.h"

int main(int argc, char** argv) { return uipe::tensor::finish_ranks(uipe::unlearn::run_program(argc, argv)); }
