#include "unlearn/cli/program.h"

int main(int argc, char** argv) { return uipe::unlearn::run_program(argc, argv); }
